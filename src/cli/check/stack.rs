//! What a phase of a PAM service comes to, worked out as libpam's dispatcher does it (pam.conf(5)), but over everything that its modules may answer.
//!
//! Invariant: a claim about a stack holds for what the modules are known to answer. A module that is not known here checks passwords.

use std::collections::HashSet;

/// What a control does with an answer of its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Ok,
    Done,
    Bad,
    Die,
    Ignore,
    Reset,
    Jump(usize),
}

/// An answer, as pam.conf(5) names it.
pub(super) type Answer = &'static str;

/// `required`, `[success=1 default=ignore]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Control {
    named: Vec<(String, Action)>,
    default: Action,
}

impl Control {
    pub(super) fn parse(text: &str) -> Self {
        let with =
            |success, default| Self { named: ["success", "new_authtok_reqd"].map(|name| (name.to_owned(), success)).to_vec(), default };
        let ignoring = |mut control: Self| {
            control.named.push(("ignore".to_owned(), Action::Ignore));
            control
        };
        match text.to_ascii_lowercase().as_str() {
            "required" => ignoring(with(Action::Ok, Action::Bad)),
            "requisite" => ignoring(with(Action::Ok, Action::Die)),
            "sufficient" => with(Action::Done, Action::Ignore),
            "optional" => with(Action::Ok, Action::Ignore),
            bracketed => {
                let pairs = bracketed.trim_start_matches('[').trim_end_matches(']').split_whitespace();
                let named: Vec<_> =
                    pairs.filter_map(|pair| pair.split_once('=')).map(|(name, word)| (name.to_owned(), action(word))).collect();
                let default = named.iter().find(|(name, _)| name == "default").map_or(Action::Bad, |(_, action)| *action);
                Self { named, default }
            }
        }
    }

    /// Of a line that fails whatever happens, such as an include that is not there.
    pub(super) fn failing() -> Self {
        Self { named: Vec::new(), default: Action::Bad }
    }

    fn on(&self, answer: Answer) -> Action {
        self.named.iter().find(|(name, _)| name == answer).map_or(self.default, |(_, action)| *action)
    }
}

fn action(word: &str) -> Action {
    match word {
        "ok" => Action::Ok,
        "done" => Action::Done,
        "die" => Action::Die,
        "ignore" => Action::Ignore,
        "reset" => Action::Reset,
        number => number.parse().map_or(Action::Bad, Action::Jump),
    }
}

/// One line of a phase. A substack's lines follow it, one level deeper.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) level: usize,
    pub(super) control: Control,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// With everything that it may answer.
    Module(Vec<Answer>),
    Substack,
}

/// The ends that a phase can come to, each with the step that made its success.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) success: Option<usize>,
    pub(super) fails: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Impression {
    None,
    Positive,
    Negative,
}

/// libpam's judgement so far; `good` is a status of PAM_SUCCESS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Judgement {
    impression: Impression,
    good: bool,
    by: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    at: usize,
    now: Judgement,
    /// The judgement with which each substack around us began.
    before: Vec<Judgement>,
}

/// Follows every way through the steps.
pub(super) fn ends(steps: &[Step]) -> Ends {
    let fresh = Judgement { impression: Impression::None, good: false, by: 0 };
    let mut ends = Ends::default();
    let mut seen = HashSet::new();
    let mut left = vec![State { at: 0, now: fresh, before: vec![fresh] }];
    while let Some(mut state) = left.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let Some(step) = steps.get(state.at) else {
            match state.now {
                Judgement { impression: Impression::Positive, good: true, by } => ends.success = ends.success.max(Some(by)),
                Judgement { .. } => ends.fails = true,
            }
            continue;
        };
        state.before.truncate(step.level + 1);
        match &step.kind {
            Kind::Substack => left.push(State { at: state.at + 1, before: [state.before.as_slice(), &[state.now]].concat(), ..state }),
            Kind::Module(answers) => left.extend(answers.iter().map(|answer| after(&state, step, answer, steps))),
        }
    }
    ends
}

fn after(state: &State, step: &Step, answer: Answer, steps: &[Step]) -> State {
    let mut now = state.now;
    let open = now.impression == Impression::None || (now.impression == Impression::Positive && now.good);
    let mut next = state.at + 1;
    // The next step that is not in the same substack.
    let beyond = || (state.at + 1..steps.len()).find(|at| steps.get(*at).is_some_and(|it| it.level < step.level)).unwrap_or(steps.len());
    match step.control.on(answer) {
        way @ (Action::Ok | Action::Done) => {
            if open && answer != "ignore" {
                if now.impression == Impression::None && answer == "success" {
                    now = Judgement { impression: Impression::Positive, by: state.at, ..now };
                }
                now.good = answer == "success";
            }
            if way == Action::Done && now.impression == Impression::Positive {
                next = beyond();
            }
        }
        way @ (Action::Bad | Action::Die) => {
            if now.impression != Impression::Negative {
                now = Judgement { impression: Impression::Negative, good: false, ..now };
            }
            if way == Action::Die {
                next = beyond();
            }
        }
        Action::Ignore => {}
        Action::Reset => now = state.before.get(step.level).copied().unwrap_or(now),
        Action::Jump(count) => {
            for _ in 0..count {
                // A substack is jumped over as a whole; too far is a failure.
                match steps.get(next) {
                    Some(jumped) if jumped.level >= step.level => {
                        next = (next + 1..steps.len())
                            .find(|at| steps.get(*at).is_some_and(|it| it.level <= jumped.level))
                            .unwrap_or(steps.len());
                    }
                    Some(_) | None => now = Judgement { impression: Impression::Negative, good: false, ..now },
                }
            }
        }
    }
    State { at: next, now, before: state.before.clone() }
}

/// Whose password is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Wrong,
    Right,
}

const YES: &[Answer] = &["success"];
const NOTHING: &[Answer] = &["ignore"];
/// Asks about something else than the password: who it is, where from, when.
const EITHER: &[Answer] = &["success", "auth_err", "user_unknown"];
const REFUSALS: &[Answer] = &["auth_err", "user_unknown", "authinfo_unavail"];
const ANY: &[Answer] = &["success", "auth_err", "user_unknown", "authinfo_unavail"];

/// What a module may answer; one that is not on this machine has one answer.
pub(super) fn answers(module: &str, arguments: &[String], asked: Asked) -> &'static [Answer] {
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let name = module.rsplit('/').next().unwrap_or(module).trim_end_matches(".so");
    match name {
        "pam_deny" => &["auth_err"],
        // The helper is root, which is all that pam_rootok asks.
        "pam_permit" | "pam_rootok" | "pam_ftp" | "pam_env" | "pam_faildelay" | "pam_keyinit" | "pam_loginuid" | "pam_umask"
        | "pam_group" | "pam_mkhomedir" | "pam_motd" | "pam_limits" => YES,
        "pam_nologin" if has("successok") => YES,
        "pam_nologin" | "pam_warn" | "pam_cap" | "pam_echo" | "pam_issue" | "pam_gnome_keyring" | "pam_kwallet" | "pam_kwallet5" => NOTHING,
        "pam_faillock" if has("authfail") => NOTHING,
        "pam_faillock" if asked == Asked::Wrong => YES,
        "pam_exec" if has("expose_authtok") && asked == Asked::Wrong => REFUSALS,
        "pam_faillock" | "pam_exec" | "pam_succeed_if" | "pam_localuser" | "pam_usertype" | "pam_listfile" | "pam_access" | "pam_time"
        | "pam_wheel" | "pam_shells" | "pam_securetty" | "pam_rhosts" | "pam_tally" | "pam_tally2" => EITHER,
        _ => match asked {
            Asked::Wrong => REFUSALS,
            Asked::Right => ANY,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of some lines `control module arguments` for a wrong and the right password.
    fn of(text: &str, asked: Asked) -> Ends {
        let steps: Vec<Step> = text
            .lines()
            .map(|line| {
                let end = if line.starts_with('[') { line.find(']').unwrap() + 1 } else { line.find(' ').unwrap() };
                let (control, rest) = line.split_at(end);
                let mut words = rest.split_whitespace().map(str::to_owned);
                let module = words.next().unwrap();
                let answers = answers(&module, &words.collect::<Vec<_>>(), asked).to_vec();
                Step { level: 0, control: Control::parse(control), kind: Kind::Module(answers) }
            })
            .collect();
        ends(&steps)
    }

    #[test]
    fn stacks_of_distributions_let_the_right_password_in_and_no_other() {
        let debian = "[success=1 default=ignore] pam_unix.so nullok\nrequisite pam_deny.so\nrequired pam_permit.so\noptional pam_cap.so";
        let debian_sss = "[success=2 default=ignore] pam_unix.so nullok\n[success=1 default=ignore] pam_sss.so use_first_pass\nrequisite pam_deny.so\nrequired pam_permit.so\noptional pam_cap.so";
        let redhat = "required pam_env.so\nrequired pam_faildelay.so delay=2000000\n[default=1 ignore=ignore success=ok] pam_usertype.so isregular\n[default=1 ignore=ignore success=ok] pam_localuser.so\nsufficient pam_unix.so nullok\n[default=1 ignore=ignore success=ok] pam_usertype.so isregular\nsufficient pam_sss.so forward_pass\nrequired pam_deny.so";
        let redhat_faillock = "required pam_env.so\nrequired pam_faillock.so preauth silent\nsufficient pam_unix.so nullok\nrequired pam_faillock.so authfail\nrequired pam_deny.so";
        let redhat_6 = "required pam_env.so\nsufficient pam_unix.so nullok try_first_pass\nrequisite pam_succeed_if.so uid >= 500 quiet\nrequired pam_deny.so";
        let arch = "required pam_faillock.so preauth\n[success=2 default=ignore] pam_systemd_home.so\n[success=1 default=bad] pam_unix.so try_first_pass nullok\n[default=die] pam_faillock.so authfail\noptional pam_permit.so\nrequired pam_env.so\nrequired pam_faillock.so authsucc";
        let suse = "required pam_env.so\nrequired pam_unix.so try_first_pass";
        let plain = "required pam_unix.so";
        let faillock_manual = "required pam_faillock.so preauth\nsufficient pam_unix.so\n[default=die] pam_faillock.so authfail\nsufficient pam_faillock.so authsucc\nrequired pam_deny.so";
        for stack in [debian, debian_sss, redhat, redhat_faillock, redhat_6, arch, suse, plain, faillock_manual, "optional pam_unix.so"] {
            assert_eq!(of(stack, Asked::Wrong), Ends { success: None, fails: true }, "{stack}");
            assert!(of(stack, Asked::Right).success.is_some(), "{stack}");
        }
    }

    #[test]
    fn stacks_that_let_everybody_in_are_seen_with_the_line_that_does_it() {
        for (stack, by) in [
            ("required pam_permit.so", 0),
            ("sufficient pam_permit.so\nrequired pam_unix.so", 0),
            ("sufficient pam_unix.so\nsufficient pam_permit.so\nrequired pam_deny.so", 1),
            ("optional pam_env.so\noptional pam_unix.so", 0),
            ("required pam_faillock.so preauth\nsufficient pam_unix.so", 0),
            ("sufficient pam_rootok.so\nrequired pam_unix.so", 0),
            ("[success=1 default=ignore] pam_unix.so\n[success=ok default=ignore] pam_deny.so\nrequired pam_permit.so", 2),
            ("[success=2 default=1] pam_unix.so\nrequisite pam_deny.so\nrequired pam_permit.so", 2),
        ] {
            assert_eq!(of(stack, Asked::Wrong), Ends { success: Some(by), fails: false }, "{stack}");
        }
    }

    #[test]
    fn a_stack_that_lets_some_in_without_a_password_and_one_that_lets_nobody_in_are_seen() {
        assert_eq!(
            of("sufficient pam_succeed_if.so user ingroup nopasswd\nrequired pam_unix.so", Asked::Wrong),
            Ends { success: Some(0), fails: true }
        );
        assert_eq!(of("requisite pam_succeed_if.so uid >= 1000\nsufficient pam_unix.so", Asked::Wrong).success, Some(0));
        assert_eq!(of("required pam_unix.so\nrequired pam_deny.so", Asked::Right).success, None);
        assert_eq!(of("[success=5 default=ignore] pam_unix.so\nrequired pam_deny.so", Asked::Right).success, None, "a jump too far");
    }

    #[test]
    fn the_end_of_a_substack_is_not_the_end_of_the_stack() {
        let step = |level, control: &str, kind| Step { level, control: Control::parse(control), kind };
        let unix = || Kind::Module(answers("pam_unix.so", &[], Asked::Wrong).to_vec());
        let deny = || Kind::Module(vec!["auth_err"]);
        let permit = || Kind::Module(vec!["success"]);
        let inner =
            |end: Step| vec![step(0, "required", Kind::Substack), step(1, "sufficient", permit()), step(1, "required", unix()), end];

        assert_eq!(ends(&inner(step(0, "required", deny()))), Ends { success: None, fails: true });
        assert_eq!(ends(&inner(step(0, "optional", deny()))), Ends { success: Some(1), fails: false });
    }
}
