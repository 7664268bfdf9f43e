//! A password from whoever sits there: from the terminal without showing it, else one line of standard input.

use std::io::{self, BufRead, IsTerminal, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use pamrelay_authwire::MAX_PASSWORD;
use zeroize::Zeroizing;

use super::{Failure, Status};
use crate::visible::visible;

/// Asks with these words.
pub(super) fn ask(prompt: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    read(prompt).map_err(|error| Failure::new(Status::Usage, format!("cannot read a password: {error}")))
}

/// Asks twice if somebody types, because nobody sees what.
pub(super) fn ask_for_new(prompt: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let once = ask(prompt)?;
    if io::stdin().is_terminal() && ask("The same again: ")? != once {
        return Err(Failure::new(Status::Usage, "these are two different passwords"));
    }
    Ok(once)
}

fn read(prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let input = io::stdin();
    let _quiet = if input.is_terminal() {
        let _ = write!(io::stderr(), "{}", visible(prompt));
        Some(Quiet::begin()?)
    } else {
        None
    };
    // Room from the start: a buffer that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD + 2));
    let mut input = input.lock();
    loop {
        let available = input.fill_buf()?;
        let end = available.iter().position(|octet| *octet == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        let text = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        if line.len() + text.len() > MAX_PASSWORD {
            return Err(io::Error::other(format!("it is longer than {MAX_PASSWORD} octets, as none can be")));
        }
        line.extend_from_slice(text);
        input.consume(taken);
        if end.is_some() || taken == 0 {
            break;
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
        let _ = writeln!(io::stderr());
    }
}
