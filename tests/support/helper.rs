//! A pretended helper: it speaks the real wire, and a user's name is the verdict that user gets.

use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pamrelay_authwire::{
    Accepted, Cause, FrameLen, Outcome, Phase, Question, QuestionFrame, Reason, Ticket, TicketKey, TicketKeys, Verdict,
};

pub(crate) const KEY_ID: u32 = 7;
const KEY: [u8; 32] = [42; 32];
pub(crate) const UID: u32 = 1000;

/// Listens at `socket` and writes the key of its tickets to `tickets`.
pub(crate) fn start(socket: &Path, tickets: &Path) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let keys = TicketKeys { current: TicketKey { id: KEY_ID, made: now, key: KEY }, previous: None };
    std::fs::write(tickets, keys.print()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || answer(stream));
        }
    });
}

fn answer(mut stream: UnixStream) {
    let mut frame = QuestionFrame::empty();
    while !matches!(FrameLen::of(frame.as_bytes()), FrameLen::Known(length) if length == frame.as_bytes().len()) {
        let count = stream.read(frame.room()).unwrap();
        if count == 0 {
            return;
        }
        frame.filled(count);
    }
    let question = Question::decode(frame.as_bytes()).expect("the front end asks well");
    let cause = |reason| Cause { phase: Phase::Auth, code: 0, reason };
    let user = String::from_utf8_lossy(question.user).into_owned();
    let outcome = match user.as_str() {
        "ann" if question.password == b"secret" => accept(&user, question.session),
        "change" => Outcome::MustChange(cause(Reason::PasswordAged)),
        "expired" => Outcome::Expired(cause(Reason::AccountExpired)),
        "denied" => Outcome::NotPermitted(cause(Reason::NotInGroups)),
        "throttled" => Outcome::Throttled(cause(Reason::AccountFailures)),
        "unavailable" => Outcome::Unavailable(cause(Reason::Fault)),
        "silent" => return,
        "hangs" => return thread::sleep(Duration::from_secs(30)),
        "nonsense" => return stream.write_all(b"yes").unwrap(),
        "twice" => {
            let accept = Verdict { id: question.id, outcome: accept(&user, question.session) }.encode().unwrap();
            return stream.write_all(&[accept.clone(), accept].concat()).unwrap();
        }
        "another" => {
            let verdict = Verdict { id: question.id.wrapping_add(1), outcome: accept(&user, question.session) };
            return stream.write_all(&verdict.encode().unwrap()).unwrap();
        }
        "gift" => {
            let accept = Verdict { id: question.id, outcome: accept(&user, question.session) }.encode().unwrap();
            let rights = [stream.as_raw_fd()];
            sendmsg::<()>(rights[0], &[IoSlice::new(&accept)], &[ControlMessage::ScmRights(&rights)], MsgFlags::empty(), None).unwrap();
            return;
        }
        "late" => {
            thread::sleep(Duration::from_millis(1500)); // longer than the front end waits
            accept(&user, question.session)
        }
        _ => Outcome::Reject(cause(Reason::Refused)),
    };
    let verdict = Verdict { id: question.id, outcome };
    let _ = stream.write_all(&verdict.encode().unwrap());
}

fn accept(user: &str, session: u64) -> Outcome {
    let expiry = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600;
    let mut ticket = Ticket { key_id: KEY_ID, expiry, session, uid: UID, user: user.to_owned(), mac: [0; 32] };
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &KEY);
    let mac = aws_lc_rs::hmac::sign(&key, &ticket.signed_part().unwrap());
    ticket.mac.copy_from_slice(mac.as_ref());
    Outcome::Accept(Accepted { user: user.to_owned(), uid: UID, groups: Vec::new(), ticket: ticket.encode().unwrap() })
}
