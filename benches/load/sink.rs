//! The far end: an SMTP server that counts and verifies, and keeps nothing.
//!
//! Invariant: a message is in the tally before its `250` is sent, so whatever the relay may forget has been counted.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;
use crate::message::{Arrival, judge};

/// What arrived of one run, as `XREPORT RUN` tells it.
#[derive(Default, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) whole: u64,
    pub(crate) doubled: u64,
    pub(crate) damaged: u64,
    /// When the last one arrived: seconds since 1970.
    pub(crate) last: f64,
}

#[derive(Default)]
struct Tally {
    runs: HashMap<u32, (Report, HashSet<u64>)>,
    scratch: Vec<u8>,
}

impl Tally {
    fn take(&mut self, message: &[u8]) {
        let (run, number) = match judge(message, &mut self.scratch) {
            Arrival::Whole { run, number } => (run, Some(number)),
            Arrival::Damaged { run } => (run, None),
            Arrival::Stranger => return,
        };
        let (report, seen) = self.runs.entry(run).or_default();
        match number {
            Some(number) if seen.insert(number) => report.whole += 1,
            Some(_) => report.doubled += 1,
            None => report.damaged += 1,
        }
        report.last = now();
    }
}

pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

pub(crate) async fn run(listen: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await?;
    let tally = Rc::new(RefCell::new(Tally::default()));
    let here = tokio::task::LocalSet::new();
    here.run_until(async move {
        loop {
            let (stream, _) = listener.accept().await?;
            let tally = Rc::clone(&tally);
            // A connection that breaks is the relay's affair: what it had not finished was not counted.
            tokio::task::spawn_local(async move { drop(converse(stream, tally).await) });
        }
    })
    .await
}

async fn converse(mut stream: TcpStream, tally: Rc<RefCell<Tally>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(b"220 sink.test ESMTP\r\n").await?;
    let mut input: Vec<u8> = Vec::with_capacity(64 * 1024);
    let mut replies: Vec<u8> = Vec::new();
    let mut in_text = false;
    let mut searched = 0;
    loop {
        let mut from = 0;
        loop {
            let waiting = &input[from..];
            if in_text {
                let Some(end) = end_of_text(waiting, &mut searched) else {
                    break;
                };
                tally.borrow_mut().take(&waiting[..end]);
                replies.extend_from_slice(b"250 2.0.0 counted\r\n");
                from += end + 3;
                in_text = false;
            } else {
                let Some(end) = memchr::memchr(b'\n', waiting) else {
                    break;
                };
                let goes_on = answer(&waiting[..end], &mut replies, &mut in_text, &tally);
                from += end + 1;
                searched = 0;
                if !goes_on {
                    return stream.write_all(&replies).await;
                }
            }
        }
        input.drain(..from);
        if !replies.is_empty() {
            stream.write_all(&replies).await?;
            replies.clear();
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Where the text ends and the lone dot begins. `searched` remembers how far earlier looks came.
fn end_of_text(waiting: &[u8], searched: &mut usize) -> Option<usize> {
    if waiting.starts_with(b".\r\n") {
        return Some(0);
    }
    let from = searched.saturating_sub(4);
    let found = memchr::memmem::find(&waiting[from..], b"\r\n.\r\n").map(|at| from + at + 2);
    *searched = waiting.len();
    found
}

/// Answers one command; false after QUIT.
fn answer(line: &[u8], replies: &mut Vec<u8>, in_text: &mut bool, tally: &RefCell<Tally>) -> bool {
    let line = String::from_utf8_lossy(line);
    let verb = line.get(..4).unwrap_or("").to_ascii_uppercase();
    let reply: &[u8] = match verb.as_str() {
        "EHLO" => b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES\r\n",
        "HELO" | "RSET" | "NOOP" | "MAIL" | "RCPT" => b"250 2.1.0 ok\r\n",
        "DATA" => {
            *in_text = true;
            b"354 go on\r\n"
        }
        "XREP" => {
            let run = line.split_whitespace().nth(1).and_then(|run| run.parse().ok()).unwrap_or(0);
            let report = tally.borrow().runs.get(&run).map(|(report, _)| report.clone()).unwrap_or_default();
            replies.extend_from_slice(b"250 ");
            replies.extend_from_slice(serde_json::to_string(&report).unwrap_or_default().as_bytes());
            b"\r\n"
        }
        "QUIT" => b"221 2.0.0 bye\r\n",
        _ => b"502 5.5.2 not here\r\n",
    };
    replies.extend_from_slice(reply);
    verb != "QUIT"
}
