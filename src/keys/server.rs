//! The key process' side of the socket: who asks, may they, and the answer.
//!
//! Invariant: a peer's rights come from the kernel (SO_PEERCRED), once, when it connects; a peer that sends what
//! is no question, or asks for what is not its own, is answered no and dropped. Connections are counted before
//! a thread is made for one. Each asker has a socket of its own, which only it (and root) can connect to, and which
//! answers nobody else.

use std::{
    io::{self, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::SignatureScheme;

use crate::sockets::{self, Askers};

use super::{
    ring::Ring,
    signer::{self, Purpose},
    store::Generation,
    wire::{Answer, Description, Question, Reason},
};

/// Connections of one kind of asker. The front holds one for each handshake that is waiting.
const CONNECTIONS: usize = 256;
/// A question is one write of some 200 bytes: a peer that needs longer is not ours.
const PATIENCE: Duration = Duration::from_secs(2);
/// Signing needs little; 256 connections of 8 MiB would not be little.
const STACK: usize = 512 * 1024;
/// Lines about refusals in one minute. A captured front end could otherwise fill the log.
const LINES: u32 = 20;

/// The users who may ask, each for its own.
#[derive(Debug, Clone, Copy)]
pub struct Users {
    /// Signatures by the server key.
    pub front: u32,
    /// Signatures by the client key, and secrets.
    pub queue: u32,
}

/// What one peer may ask, decided when it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    Front,
    Queue,
    /// Root may look at what is public.
    Root,
}

/// Everyone's questions are answered from here.
#[derive(Debug)]
pub struct Server {
    ring: Arc<Ring>,
    users: Users,
    connections: [AtomicUsize; 3],
    lines: Mutex<(Instant, u32)>,
}

impl Users {
    /// No account has this uid.
    const NOBODY: u32 = u32::MAX;

    /// The users of the socket that is the front end's.
    pub(super) fn front_alone(self) -> Self {
        Self { queue: Self::NOBODY, ..self }
    }

    /// The users of the socket that is the queue's.
    pub(super) fn queue_alone(self) -> Self {
        Self { front: Self::NOBODY, ..self }
    }
}

/// Binds a socket where nobody passed one in, for whoever runs this process: in tests and by hand.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    sockets::bind(path, Askers::default(), None)
}

/// The same for one asker, whose socket it becomes as far as this process may give it away. Nobody else can even connect.
pub(super) fn bind_for(path: &Path, asker: u32, lock: Option<&Path>) -> io::Result<UnixListener> {
    let is_root = rustix::process::geteuid().is_root();
    let group = nix::unistd::User::from_uid(asker.into()).ok().flatten().map(|user| user.gid.as_raw());
    let askers = if is_root { Askers { uid: Some(asker), gid: group } } else { Askers::default() };
    sockets::bind(path, askers, lock.filter(|_| is_root))
}

impl Asker {
    /// Who a uid is. A uid that plays two roles is the first of them.
    fn of(uid: u32, users: Users) -> Option<Self> {
        match uid {
            uid if uid == users.front => Some(Self::Front),
            uid if uid == users.queue => Some(Self::Queue),
            0 => Some(Self::Root),
            _ => None,
        }
    }

    fn may_describe(self, purpose: Purpose) -> bool {
        self == Self::Root || self.may_sign(purpose)
    }

    fn may_sign(self, purpose: Purpose) -> bool {
        match (self, purpose) {
            (Self::Front, Purpose::Server) | (Self::Queue, Purpose::Client) => true,
            (Self::Front, Purpose::Client) | (Self::Queue, Purpose::Server) | (Self::Root, _) => false,
        }
    }

    fn may_have_secrets(self) -> bool {
        match self {
            Self::Queue => true,
            Self::Front | Self::Root => false,
        }
    }

    fn place(self) -> usize {
        match self {
            Self::Front => 0,
            Self::Queue => 1,
            Self::Root => 2,
        }
    }
}

impl Server {
    pub fn new(ring: Arc<Ring>, users: Users) -> Arc<Self> {
        Arc::new(Self { ring, users, connections: [const { AtomicUsize::new(0) }; 3], lines: Mutex::new((Instant::now(), 0)) })
    }

    /// Answers until the process ends.
    pub fn serve(self: Arc<Self>, listener: &UnixListener) -> ! {
        loop {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.say(|| tracing::warn!(event = "accept_failed", error = %error));
                    thread::sleep(Duration::from_millis(100)); // out of descriptors: others will end
                }
            }
        }
    }

    /// Gives a peer a thread if it is known and there are not too many of its kind.
    fn admit(self: &Arc<Self>, stream: UnixStream) {
        let uid = match rustix::net::sockopt::socket_peercred(&stream) {
            Ok(credentials) => credentials.uid.as_raw(),
            Err(error) => {
                self.say(|| tracing::warn!(event = "peer_unknown", error = %error));
                return;
            }
        };
        let Some(asker) = Asker::of(uid, self.users) else {
            self.say(|| tracing::warn!(event = "peer_refused", uid, reason = "not a role of the relay"));
            return;
        };
        let Some(slot) = Slot::take(self, asker) else {
            self.say(|| tracing::warn!(event = "peer_refused", asker = ?asker, reason = "too many connections"));
            return;
        };
        let server = Arc::clone(self);
        let talk = move || {
            let _slot = slot;
            server.converse(&stream, asker);
        };
        if let Err(error) = thread::Builder::new().name("asker".into()).stack_size(STACK).spawn(talk) {
            self.say(|| tracing::warn!(event = "thread_failed", error = %error));
        }
    }

    fn converse(&self, mut stream: &UnixStream, asker: Asker) {
        if stream.set_write_timeout(Some(PATIENCE)).is_err() {
            return;
        }
        loop {
            let question = match Question::read(Patient { stream, begun: None }) {
                Ok(Some(question)) => question,
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Err(error) => {
                    self.say(|| tracing::warn!(event = "peer_dropped", asker = ?asker, error = %error));
                    return;
                }
            };
            let answer = self.answer(asker, &question);
            if stream.write_all(&answer.encode()).is_err() {
                return;
            }
            if let Answer::Refused(reason @ (Reason::NotPermitted | Reason::Unrecognised)) = answer
                && !matches!(question, Question::Describe(_))
            {
                self.say(|| tracing::warn!(event = "refused", asker = ?asker, what = what(&question), reason = %reason));
                return;
            }
        }
    }

    fn answer(&self, asker: Asker, question: &Question) -> Answer {
        match question {
            Question::Describe(purpose) if !asker.may_describe(*purpose) => Answer::Refused(Reason::NotPermitted),
            Question::Describe(purpose) => match self.ring.current(*purpose) {
                Some(identity) => Answer::Description(Description {
                    generation: identity.generation,
                    schemes: identity.schemes.clone(),
                    chain: identity.chain.clone(),
                }),
                None => Answer::Refused(Reason::Unknown),
            },
            Question::Sign { purpose, .. } if !asker.may_sign(*purpose) => Answer::Refused(Reason::NotPermitted),
            Question::Sign { purpose, generation, scheme, text } => {
                self.sign(*purpose, *generation, *scheme, text).unwrap_or_else(Answer::Refused)
            }
            Question::Secret(_) if !asker.may_have_secrets() => Answer::Refused(Reason::NotPermitted),
            Question::Secret(name) => self.ring.secret(name).map_or(Answer::Refused(Reason::Unknown), Answer::Secret),
        }
    }

    fn sign(&self, purpose: Purpose, generation: Generation, scheme: SignatureScheme, text: &[u8]) -> Result<Answer, Reason> {
        let recognised = signer::recognise(text).ok_or(Reason::Unrecognised)?;
        if !signer::permits(purpose, recognised, scheme) {
            return Err(Reason::Unrecognised);
        }
        let current = self.ring.current(purpose).ok_or(Reason::Unknown)?.generation;
        let identity = self.ring.find(purpose, generation, Instant::now()).ok_or(Reason::Stale)?;
        let signature = identity.sign(scheme, text).ok_or(Reason::Failed)?;
        Ok(Answer::Signature { current, signature })
    }

    /// Writes one line to the log, unless there were many this minute.
    fn say(&self, write: impl FnOnce()) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut *lines;
        if since.elapsed() > Duration::from_secs(60) {
            if *count > LINES {
                tracing::warn!(event = "lines_withheld", count = *count - LINES);
            }
            (*since, *count) = (Instant::now(), 0);
        }
        *count = count.saturating_add(1);
        if *count <= LINES {
            write();
        }
    }
}

/// What a question is about, without what it carries.
fn what(question: &Question) -> &'static str {
    match question {
        Question::Describe(_) => "description",
        Question::Sign { purpose: Purpose::Server, .. } => "server-signature",
        Question::Sign { purpose: Purpose::Client, .. } => "client-signature",
        Question::Secret(_) => "secret",
    }
}

/// A connection's place in the count, given back when it ends.
struct Slot {
    server: Arc<Server>,
    asker: Asker,
}

impl Slot {
    fn take(server: &Arc<Server>, asker: Asker) -> Option<Self> {
        let count = server.connections.get(asker.place())?;
        let before = count.fetch_add(1, Ordering::Relaxed);
        let slot = Self { server: Arc::clone(server), asker };
        (before < CONNECTIONS).then_some(slot) // dropping it takes the count back
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(count) = self.server.connections.get(self.asker.place()) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A stream on which a question may begin at any time but must then end soon.
///
/// A whole question comes with the first read nearly always, so the time-out costs nothing but on a cut one.
struct Patient<'a> {
    stream: &'a UnixStream,
    begun: Option<Instant>,
}

impl io::Read for Patient<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(begun) = self.begun {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
        }
        let mut stream = self.stream;
        let count = stream.read(into)?;
        match self.begun {
            Some(_) => self.stream.set_read_timeout(None)?,
            None => self.begun = Some(Instant::now()),
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_asker_may_ask_for_its_own_and_nothing_else() {
        let users = Users { front: 101, queue: 102 };

        assert_eq!(Asker::of(101, users), Some(Asker::Front));
        assert_eq!(Asker::of(102, users), Some(Asker::Queue));
        assert_eq!(Asker::of(0, users), Some(Asker::Root));
        assert_eq!(Asker::of(1000, users), None);

        for (asker, server, client, secrets) in
            [(Asker::Front, true, false, false), (Asker::Queue, false, true, true), (Asker::Root, false, false, false)]
        {
            assert_eq!(asker.may_sign(Purpose::Server), server, "{asker:?}");
            assert_eq!(asker.may_sign(Purpose::Client), client, "{asker:?}");
            assert_eq!(asker.may_have_secrets(), secrets, "{asker:?}");
        }
        assert!(Asker::Root.may_describe(Purpose::Server));
        assert!(!Asker::Front.may_describe(Purpose::Client));
    }
}
