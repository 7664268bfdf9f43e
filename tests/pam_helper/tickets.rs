//! The wall between a captured front end and the queue: the real helper's tickets at the real queue's socket, handed
//! over by a process of the front end's user. It can say what it likes; the queue believes the ticket.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use aws_lc_rs::hmac;
use jiff::tz::TimeZone;
use nix::libc;
use pamrelay::auth::{self, Visit};
use pamrelay::handoff::{Answer, HandoffError, Limits, Opening, Pool, Proof, Refused};
use pamrelay::message::trace::{Protocol, Trace};
use pamrelay::queue::control::{Client, Entry, Filter};
use pamrelay::queue::dispatch::ActiveLimits;
use pamrelay::queue::schedule::Schedule;
use pamrelay::queue::{self, QueueSettings};
use pamrelay::smtp::SessionId;
use pamrelay::smtp::address::{Mailbox, ReversePath};
use pamrelay::smtp::envelope::{BodyType, Envelope, International, Notify, Recipient};
use pamrelay_authwire::{Ticket, TicketKeys};
use zeroize::Zeroizing;

use crate::pam_stage::{Helper, Stage, UNIX, waits_for, words};

/// The front end's user, and somebody who is nobody here.
const FRONT: u32 = 20100;
const STRANGER: u32 = 65534;
const SESSION: u64 = 42;

/// The real queue beside the real helper. What it takes is never delivered.
struct Wall {
    helper: Helper,
}

impl Wall {
    fn new() -> Self {
        let helper = Stage::new(UNIX).start();
        let at = |name: &str| helper.dir.path().join(name);
        fs::create_dir(at("spool")).unwrap();
        fs::set_permissions(at("spool"), fs::Permissions::from_mode(0o700)).unwrap();
        let settings = QueueSettings {
            notifier: pamrelay::sandbox::Notifier::from_env(),
            spool: at("spool"),
            handoff: at("run/jail/queue"),
            control: at("run/queue/control"),
            tickets: at("run/tickets"),
            peers: vec![FRONT],
            message_size: 100_000,
            recipients: 100,
            schedule: Schedule::default(),
            active: ActiveLimits::default(),
            zone: TimeZone::UTC,
            reporter: Arc::new(|_, _, _| None),
            postmaster: None,
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (jobs, _jobs) = tokio::sync::mpsc::channel(16);
                let (_outcomes, settled) = tokio::sync::mpsc::channel(16);
                queue::run_until(settings, (jobs, settled), std::future::pending()).await.unwrap();
            });
        });
        waits_for("the queue's socket", || at("run/jail/queue").exists().then_some(()));
        // As in /run/pamrelay: the sockets are for the front end, the ticket keys are not.
        for (name, mode) in [("", 0o755), ("run", 0o755), ("run/jail", 0o755), ("run/jail/auth", 0o666), ("run/jail/queue", 0o666)] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        Self { helper }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.helper.dir.path().join(name)
    }

    /// Logs in as the front end does, by the front end's user, and gives the ticket.
    fn ticket(&self, user: &'static str) -> Ticket {
        let socket = self.at("run/jail/auth");
        let answer = by(FRONT, async move {
            let client = auth::Helper::new(socket, Duration::from_secs(10));
            let password = Zeroizing::new(b"right".to_vec());
            client
                .ask(Visit { session: SESSION, peer: IpAddr::V4(Ipv4Addr::LOCALHOST), listener: "" }, user.as_bytes(), password.into())
                .await
        });
        let auth::Answer::Accept(identity) = answer else { panic!("{answer:?}") };
        Ticket::decode(identity.ticket()).unwrap()
    }

    fn hands_over(&self, ticket: Vec<u8>) -> Result<Answer, HandoffError> {
        self.hands_over_as(FRONT, SESSION, ticket)
    }

    /// A message whose envelope says that alice sends it.
    fn hands_over_as(&self, uid: u32, session: u64, ticket: Vec<u8>) -> Result<Answer, HandoffError> {
        let socket = self.at("run/jail/queue");
        let opening = opening(session, ticket);
        by(uid, async move {
            let pool = Pool::new(socket, Limits { patience: Duration::from_secs(10), ..Limits::default() });
            let mut transfer = pool.begin(&opening, "alice").await?;
            transfer.chunk(b"Subject: wall\r\n\r\ntext\r\n").await?;
            transfer.finish().await
        })
    }

    /// Whose messages are in the queue.
    fn senders(&self) -> Vec<(Option<String>, Option<u32>)> {
        let mut found = Vec::new();
        Client::new(&self.at("run/queue/control")).list(Filter::default(), |Entry { user, uid, .. }| found.push((user, uid))).unwrap();
        found
    }
}

/// Runs in a thread that is this user to the kernel, as another process of that user would be.
fn by<T: Send + 'static>(uid: u32, work: impl Future<Output = T> + Send + 'static) -> T {
    let thread = thread::spawn(move || {
        // SAFETY: setresuid by its number takes integers, touches no memory, and changes this thread alone.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
        assert_eq!(changed, 0);
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    });
    thread.join().unwrap()
}

fn opening(session: u64, ticket: Vec<u8>) -> Opening {
    let mailbox = |text| Mailbox::parse(text, International::Ascii).unwrap();
    Opening {
        envelope: Envelope {
            sender: ReversePath::Mailbox(mailbox("alice@mail.example")),
            first: Recipient { mailbox: mailbox("one@dest.example"), notify: Notify::Unspecified, original: None },
            rest: Vec::new(),
            body: BodyType::SevenBit,
            international: International::Ascii,
            ret: None,
            envid: None,
        },
        trace: Trace {
            helo: "client.example".into(),
            peer: "192.0.2.7:40000".parse().unwrap(),
            protocol: Protocol::Esmtpsa,
            tls: None,
            host: "mail.example".into(),
        },
        proof: Proof::Ticket(ticket),
        session: SessionId(session),
        declared_size: None,
    }
}

/// A ticket sealed with this key.
fn sealed(mut ticket: Ticket, key: &[u8]) -> Vec<u8> {
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &ticket.signed_part().unwrap());
    ticket.mac.copy_from_slice(mac.as_ref());
    ticket.encode().unwrap()
}

root_test! {
    fn the_queue_believes_the_ticket_and_not_the_envelope() {
        let wall = Wall::new();
        let ticket = wall.ticket("bob").encode().unwrap();

        let answer = wall.hands_over(ticket).unwrap();

        assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
        assert_eq!(wall.senders(), [(Some("bob".to_owned()), Some(20002))]);
    }

    fn without_a_ticket_nothing_is_queued() {
        let wall = Wall::new();
        let ticket = wall.ticket("bob").encode().unwrap();

        for nothing in [Vec::new(), vec![0], vec![0; 90], b"alice".to_vec(), ticket[..ticket.len() - 1].to_vec(), [&ticket[..], b"x"].concat()] {
            assert_eq!(wall.hands_over(nothing.clone()).unwrap(), Answer::Refused(Refused::NotPermitted), "{nothing:?}");
        }
        assert_eq!(wall.senders(), []);
    }

    fn a_forged_ticket_is_refused_and_its_key_is_out_of_the_front_end_s_reach() {
        let wall = Wall::new();
        let real = wall.ticket("bob");
        let alice = || Ticket { user: "alice".into(), uid: 20001, ..real.clone() };

        for key in [&[0; 32][..], &[42; 32], &real.mac] {
            assert_eq!(wall.hands_over(sealed(alice(), key)).unwrap(), Answer::Refused(Refused::NotPermitted));
        }
        for key_id in [0, 1, real.key_id.wrapping_add(1)] {
            let unknown = sealed(Ticket { key_id, ..alice() }, &[0; 32]);
            assert_eq!(wall.hands_over(unknown).unwrap(), Answer::Refused(Refused::Fault), "a key that may be new");
        }
        let file = wall.at("run/tickets");
        let read = by(FRONT, async move { fs::read(file) });
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(wall.senders(), []);

        // With the key itself it would have been taken: nothing else stood in its way.
        let keys = TicketKeys::parse(&fs::read_to_string(wall.at("run/tickets")).unwrap()).unwrap();
        let good = sealed(alice(), &keys.find(real.key_id).unwrap().key);
        assert!(matches!(wall.hands_over(good).unwrap(), Answer::Accepted(_)));
    }

    fn a_real_ticket_is_good_for_its_own_session_user_and_time_alone() {
        let wall = Wall::new();
        let real = wall.ticket("bob");
        let other_session = wall.hands_over_as(FRONT, SESSION + 1, real.encode().unwrap()).unwrap();
        assert_eq!(other_session, Answer::Refused(Refused::NotPermitted));

        for (altered, session) in [
            (Ticket { user: "alice".into(), ..real.clone() }, SESSION),
            (Ticket { user: "bob2".into(), ..real.clone() }, SESSION),
            (Ticket { uid: 0, ..real.clone() }, SESSION),
            (Ticket { uid: 20001, ..real.clone() }, SESSION),
            (Ticket { user: "alice".into(), uid: 20001, ..real.clone() }, SESSION),
            (Ticket { session: SESSION + 1, ..real.clone() }, SESSION + 1),
            (Ticket { expiry: real.expiry + 86_400, ..real.clone() }, SESSION),
            (Ticket { mac: wall.ticket("carol").mac, ..real.clone() }, SESSION),
        ] {
            let answer = wall.hands_over_as(FRONT, session, altered.encode().unwrap()).unwrap();
            assert_eq!(answer, Answer::Refused(Refused::NotPermitted), "{altered:?}");
        }
        assert_eq!(wall.senders(), []);
    }

    fn other_users_of_the_machine_are_heard_by_neither_helper_nor_queue() {
        let wall = Wall::new();
        let ticket = wall.ticket("bob").encode().unwrap();

        let answer = wall.hands_over_as(STRANGER, SESSION, ticket.clone());

        assert!(matches!(answer, Err(HandoffError::Cut(_) | HandoffError::Unanswered(_))), "{answer:?}");
        assert_eq!(wall.senders(), []);
        assert!(matches!(wall.hands_over(ticket).unwrap(), Answer::Accepted(_)), "the same from the front end");
        assert_eq!(words(&wall.helper.asks("bob", "right")), "accept");
    }
}
