//! One question, one process: runs both PAM phases, looks the account up, says one report, ends.
//!
//! Whatever a module does (hang, crash, `exit(0)`, write to standard output, change uid or umask, leave
//! threads) happens here and is over with this process. Invariant: the only way to an *accept* is the last
//! step of [`Walk::answer`]; everything before it leaves by `?` with a refusal or *unavailable*.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{Pid, dup2_stdin, getpid, getppid, setpgid};
use pamrelay_authwire::{Accepted, Cause, Outcome, Phase, Question, QuestionFrame, Reason};

use crate::pam::{Code, Transaction};
use crate::report::Report;
use crate::rules::Rules;
use crate::{account, check, harden, judge, service, sys};

/// The PAM handles of a worker: those that the template has started already, and what it starts itself.
#[derive(Default)]
pub(crate) struct Stacks(Vec<(String, Transaction)>);

impl Stacks {
    pub(crate) fn add(&mut self, service: &str, transaction: Transaction) {
        self.0.push((service.to_owned(), transaction));
    }

    /// The handle of this service, started if need be. Each is given out once.
    fn take(&mut self, service: &str) -> Result<Transaction, Outcome> {
        if let Some(at) = self.0.iter().position(|(name, _)| name == service) {
            return Ok(self.0.swap_remove(at).1);
        }
        let failed = |code: Code, reason| Outcome::Unavailable(Cause { phase: Phase::Start, code: code.0, reason });
        let no_service = || failed(Code::SUCCESS, Reason::NoService);
        if service::unusable(service).is_some() {
            return Err(no_service());
        }
        let name = CString::new(service).map_err(|_| no_service())?;
        let transaction = Transaction::start(&name).map_err(|code| failed(code, Reason::Fault))?;
        // Looked at again: had the file gone before libpam read it, `other` would now be loaded.
        if service::unusable(service).is_some() { Err(no_service()) } else { Ok(transaction) }
    }
}

/// Runs in the fresh fork and never returns. `template` is the parent, as it knows itself.
pub(crate) fn run(socket: OwnedFd, nice: i32, stacks: &mut Stacks, rules: &Rules, template: Pid) -> ! {
    let mut used = None;
    let done = catch_unwind(AssertUnwindSafe(|| {
        confine(&socket, nice, rules, template)?;
        let me = getpid();
        let mut frame = QuestionFrame::empty();
        let count = recv(socket.as_raw_fd(), frame.room(), MsgFlags::MSG_DONTWAIT).ok()?;
        frame.filled(count);
        let question = Question::decode(frame.as_bytes())?;

        let mut walk = Walk { rules, stacks, service: "", transaction: &mut used };
        let outcome = walk.answer(&question).map_or_else(|refusal| refusal, Outcome::Accept);
        let service = walk.service;
        let said = used.as_mut().map(Transaction::said).unwrap_or_default();
        tell(&socket, me, Report::new(outcome, service, said, question.password), question.id)
    }));
    // pam_end after the answer: modules tidy up (Kerberos ticket files), and a slow one keeps nobody waiting.
    let tidied = catch_unwind(AssertUnwindSafe(|| drop(used.take())));
    sys::exit_now(i32::from(!matches!((done, tidied), (Ok(Some(())), Ok(())))));
}

/// The walk from question to account.
struct Walk<'a, 't> {
    rules: &'a Rules,
    stacks: &'t mut Stacks,
    /// The service that was asked; empty as long as none was.
    service: &'a str,
    transaction: &'t mut Option<Transaction>,
}

impl Walk<'_, '_> {
    fn answer(&mut self, question: &Question<'_>) -> Result<Accepted, Outcome> {
        let refused = |reason| Outcome::Reject(Cause { phase: Phase::Check, code: 0, reason });
        let broken = |code: Code| Outcome::Unavailable(Cause { phase: Phase::Start, code: code.0, reason: Reason::Fault });

        let user = check::admissible(question, &self.rules.names).map_err(refused)?;
        self.service = self.service_for(question.listener, &user)?;
        let peer = CString::new(question.peer_addr().to_string()).map_err(|_| broken(Code::BUF_ERR))?;
        let tty = CString::new(self.service).map_err(|_| broken(Code::BUF_ERR))?;
        let transaction = self.transaction.insert(self.stacks.take(self.service)?);
        transaction.introduce(&user, &peer, &tty).map_err(broken)?;

        let (code, prompts) = transaction.authenticate(question.password);
        judge::authenticated(code, prompts).map_err(|refusal| match code {
            // Only as good as the name service that the module asked: without NIS pam_unix knows nobody.
            Code::USER_UNKNOWN if transaction.user().is_some_and(|user| !account::is_answered(&user)) => judge::doubted(refusal),
            _ => refusal,
        })?;

        let (code, _) = transaction.account();
        judge::permitted(code)?;

        match &self.rules.guests {
            Some(guests) if guests.service == self.service => account::identify_guest(transaction.user(), guests, self.rules),
            Some(_) | None => account::identify(transaction.user(), self.rules),
        }
    }
}

impl<'a> Walk<'a, '_> {
    /// The listener's service; and where there is one for guests, that for every name that the host does not know.
    fn service_for(&self, listener: &str, user: &CStr) -> Result<&'a str, Outcome> {
        let rules = self.rules;
        let unavailable = |reason| Outcome::Unavailable(Cause { phase: Phase::Start, code: 0, reason });
        let service = rules.service_of(listener).ok_or_else(|| unavailable(Reason::NoListener))?;
        let Some(guests) = &rules.guests else { return Ok(service) };
        let known = account::is_known(user)?;
        match (known, service == guests.service) {
            (true, false) => Ok(service),
            (false, _) => Ok(&guests.service),
            (true, true) => Err(Outcome::Reject(Cause { phase: Phase::Identity, code: 0, reason: Reason::NoGuest })),
        }
    }
}

/// Sends the report, unless this is a copy that a module forked and forgot to end.
fn tell(socket: &OwnedFd, me: Pid, report: Report, id: u64) -> Option<()> {
    if getpid() != me {
        return None;
    }
    let bytes = report.encode(id)?;
    send(socket.as_raw_fd(), &bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).ok()?;
    Some(())
}

/// Before any module runs: its own process group, no descriptors, memory locked and bounded, and an
/// end together with the template.
fn confine(socket: &OwnedFd, nice: i32, rules: &Rules, template: Pid) -> Option<()> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).ok()?;
    sys::yield_processor(nice);
    prctl::set_name(c"auth-worker").ok()?;
    prctl::set_pdeathsig(Signal::SIGKILL).ok()?;
    if getppid() != template {
        return None; // it died before the line above
    }
    dup2_stdin(std::io::stdout().as_fd()).ok()?; // /dev/null
    sys::close_all_but(socket.as_fd());
    let _ = harden::lock_memory(); // the listener has said so where it cannot be
    let memory = u64::from(rules.worker_memory_mib) << 20;
    setrlimit(Resource::RLIMIT_AS, memory, memory).ok()
}
