//! Refusals that are decided and wait for their time, so that how long one took tells nothing.
//!
//! Invariant: at most [`MOST`] of them, for each has a descriptor; beyond that the first to come leaves early.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use nix::sys::socket::{MsgFlags, send};

/// Refusals held at once.
const MOST: usize = 512;

/// A refusal on its way out.
struct Departure {
    leaves: Instant,
    stream: UnixStream,
    frame: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Departures(VecDeque<Departure>);

impl Departures {
    /// Answers now, or holds the answer until `leaves`.
    pub(crate) fn take(&mut self, stream: UnixStream, frame: Vec<u8>, leaves: Instant, now: Instant) {
        if leaves <= now {
            return answer(&stream, &frame);
        }
        self.0.push_back(Departure { leaves, stream, frame });
        if self.0.len() > MOST
            && let Some(early) = self.0.pop_front()
        {
            answer(&early.stream, &early.frame);
        }
    }

    /// Lets go what was held until now.
    pub(crate) fn leave(&mut self, now: Instant) {
        self.0.retain(|departure| {
            let stays = departure.leaves > now;
            if !stays {
                answer(&departure.stream, &departure.frame);
            }
            stays
        });
    }

    /// When each of them leaves.
    pub(crate) fn times(&self) -> impl Iterator<Item = Instant> {
        self.0.iter().map(|departure| departure.leaves)
    }
}

/// A fresh socket has room for it; a peer that is gone does not need it.
pub(crate) fn answer(stream: &UnixStream, frame: &[u8]) {
    let _ = send(stream.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::time::Duration;

    use super::*;

    /// What has come for the peer, if anything.
    fn heard(peer: &mut UnixStream) -> Option<u8> {
        let mut octet = [0];
        match peer.read_exact(&mut octet) {
            Ok(()) => Some(octet[0]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                None
            }
        }
    }

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn an_answer_leaves_at_its_time_and_not_before() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        let (ours, mut theirs) = pair();
        let leaves = now + Duration::from_secs(1);

        departures.take(ours, vec![7], leaves, now);
        departures.leave(now);
        assert_eq!((heard(&mut theirs), departures.times().next()), (None, Some(leaves)));
        departures.leave(leaves);
        assert_eq!((heard(&mut theirs), departures.times().count()), (Some(7), 0));
    }

    #[test]
    fn one_too_many_sends_the_first_off_early() {
        let (mut departures, now) = (Departures::default(), Instant::now());
        let (ours, mut theirs) = pair();
        departures.take(ours, vec![1], now + Duration::from_secs(1), now);
        let (filler, _peer) = pair();

        for _ in 1..MOST {
            departures.take(filler.try_clone().unwrap(), vec![2], now + Duration::from_secs(1), now);
        }
        assert_eq!(heard(&mut theirs), None);
        departures.take(filler, vec![2], now + Duration::from_secs(1), now);
        assert_eq!((heard(&mut theirs), departures.times().count()), (Some(1), MOST));
    }
}
