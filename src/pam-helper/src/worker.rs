//! One question, one process: runs both PAM phases, looks the account up, says one report, ends.
//!
//! Whatever a module does (hang, crash, `exit(0)`, write to standard output, change uid or umask, leave
//! threads) happens here and is over with this process. Invariant: the only way to an *accept* is the last
//! line of [`answer`]; everything before it leaves by `?` with a refusal or *unavailable*.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{Pid, dup2_stdin, getpid, getppid, setsid};
use pamrelay_authwire::{Accepted, Cause, Outcome, Phase, Question, QuestionFrame, Reason};

use crate::pam::{Code, Transaction};
use crate::report::Report;
use crate::settings::Rules;
use crate::{account, check, judge, service, sys};

const TTY: &CStr = c"smtp";

/// Where a worker gets its PAM handle from.
pub(crate) enum Modules {
    /// The template has run `pam_start`; this is the copy.
    Loaded(Transaction),
    /// The worker runs `pam_start` itself.
    Cold,
}

/// Runs in the fresh fork and never returns. `template` is the parent, as it knows itself.
pub(crate) fn run(socket: OwnedFd, modules: &mut Modules, rules: &Rules, template: Pid) -> ! {
    let done = catch_unwind(AssertUnwindSafe(|| {
        confine(&socket, rules, template)?;
        let me = getpid();
        let mut frame = QuestionFrame::empty();
        let count = recv(socket.as_raw_fd(), frame.room(), MsgFlags::MSG_DONTWAIT).ok()?;
        frame.filled(count);
        let question = Question::decode(frame.as_bytes())?;

        if matches!(modules, Modules::Cold) && service::unusable(&rules.service).is_none() {
            let name = CString::new(rules.service.as_str()).ok()?;
            *modules = match Transaction::start(&name) {
                // Looked at again: had the file gone before libpam read it, `other` would now be loaded.
                Ok(_) if service::unusable(&rules.service).is_some() => Modules::Cold,
                Ok(transaction) => Modules::Loaded(transaction),
                Err(code) => {
                    let outcome = Outcome::Unavailable(Cause { phase: Phase::Start, code: code.0, reason: Reason::Fault });
                    return tell(&socket, me, Report::new(outcome, b"", b""), question.id);
                }
            };
        }
        let Modules::Loaded(transaction) = modules else {
            let outcome = Outcome::Unavailable(Cause { phase: Phase::Start, code: 0, reason: Reason::NoService });
            return tell(&socket, me, Report::new(outcome, b"", b""), question.id);
        };

        let outcome = answer(transaction, &question, rules).map_or_else(|refusal| refusal, Outcome::Accept);
        tell(&socket, me, Report::new(outcome, transaction.said(), question.password), question.id)
    }));
    // pam_end after the answer: modules tidy up (Kerberos ticket files), and a slow one keeps nobody waiting.
    let tidied = catch_unwind(AssertUnwindSafe(|| *modules = Modules::Cold));
    sys::exit_now(i32::from(!matches!((done, tidied), (Ok(Some(())), Ok(())))));
}

/// The walk from question to account.
fn answer(transaction: &mut Transaction, question: &Question<'_>, rules: &Rules) -> Result<Accepted, Outcome> {
    let refused = |reason| Outcome::Reject(Cause { phase: Phase::Check, code: 0, reason });
    let broken = |code: Code| Outcome::Unavailable(Cause { phase: Phase::Start, code: code.0, reason: Reason::Fault });

    let user = check::admissible(question).map_err(refused)?;
    let peer = CString::new(question.peer_addr().to_string()).map_err(|_| broken(Code::BUF_ERR))?;
    transaction.introduce(&user, &peer, TTY).map_err(broken)?;

    let (code, prompts) = transaction.authenticate(question.password);
    judge::authenticated(code, prompts)?;

    let (code, _) = transaction.account();
    judge::permitted(code)?;

    account::identify(transaction.user(), rules)
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

/// Before any module runs: own session and process group, no descriptors, bounded memory, and an end
/// together with the template.
fn confine(socket: &OwnedFd, rules: &Rules, template: Pid) -> Option<()> {
    setsid().ok()?;
    prctl::set_name(c"auth-worker").ok()?;
    prctl::set_pdeathsig(Signal::SIGKILL).ok()?;
    if getppid() != template {
        return None; // it died before the line above
    }
    dup2_stdin(std::io::stdout().as_fd()).ok()?; // /dev/null
    sys::close_all_but(socket.as_fd());
    let memory = u64::from(rules.worker_memory_mib) << 20;
    setrlimit(Resource::RLIMIT_AS, memory, memory).ok()
}
