//! The PAM services: what stands in their files, whether it is there, and whom it would let in.
//!
//! Invariant: what the helper refuses to start with is a fault here, by the same rule: `/etc/pam.d/SERVICE` is there and has lines for auth and
//! account of its own, an `@include` counting for what is in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Finding;
use super::stack::{self, Answer, Asked, Control, Kind, Step};
use crate::config::Position;

/// Where the helper wants a service, and libpam looks for it first.
const DIRECTORY: &str = "/etc/pam.d";
/// Where libpam looks for what is included, too.
const VENDOR: &str = "/usr/lib/pam.d";
const MODULE_PARENTS: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64"];
const DEEPEST_INCLUDE: usize = 8;

/// The phases that the helper runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Auth,
    Account,
}

impl Phase {
    const ALL: [Self; 2] = [Self::Auth, Self::Account];

    fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Account => "account",
        }
    }
}

/// A machine's PAM: where its files and modules are.
struct Pam {
    directories: Vec<PathBuf>,
    modules: Vec<PathBuf>,
}

pub(super) fn service(service: &str) -> Vec<Finding> {
    Pam::of_this_machine().look(service)
}

/// One line of a phase, and where it stands.
struct Line {
    step: Step,
    file: PathBuf,
    at: Position,
    what: What,
}

enum What {
    /// Something that is there.
    There,
    MissingModule {
        name: String,
        silent: bool,
    },
    MissingInclude(String),
}

impl Pam {
    fn of_this_machine() -> Self {
        let children = MODULE_PARENTS.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten().map(|entry| entry.path());
        let places = children.chain(MODULE_PARENTS.iter().map(PathBuf::from)).map(|place| place.join("security"));
        let modules = places.filter(|place| place.join("pam_unix.so").exists() || place.join("pam_permit.so").exists()).collect();
        Self { directories: [DIRECTORY, VENDOR].map(PathBuf::from).to_vec(), modules }
    }

    fn look(&self, service: &str) -> Vec<Finding> {
        let Some(directory) = self.directories.first() else { return Vec::new() };
        let path = directory.join(service);
        let shown = path.display();
        let about = match fs::metadata(&path) {
            Ok(about) => about,
            Err(_) => {
                return vec![Finding::fault(
                    format!("there is no PAM service {service}: PAM would take /etc/pam.d/other instead, which on some systems lets everybody in"),
                    format!("install one of the files in pam.d/ of pamrelay as {shown}, and look at what it asks for"),
                )
                .in_file(&path, None)];
            }
        };
        let mut findings = Vec::new();
        if about.uid() != 0 || about.mode() & 0o022 != 0 {
            let (owner, mode) = (about.uid(), about.mode() & 0o7777);
            let what = format!("others than root may change {shown}, and so who may log in (owner uid {owner}, mode {mode:04o})");
            findings.push(Finding::fault(what, format!("chown root:root {shown} && chmod 0644 {shown}")).in_file(&path, None));
        }
        for phase in Phase::ALL {
            if self.mentions(&path, phase, DEEPEST_INCLUDE) {
                findings.extend(self.judge(&path, phase));
            } else {
                let name = phase.name();
                findings.push(
                    Finding::fault(
                        format!("{shown} has no line for {name}: PAM would take those of /etc/pam.d/other, and the helper does not start"),
                        format!("add one, such as: @include common-{name} (Debian) or {name} include password-auth (Red Hat)"),
                    )
                    .in_file(&path, None),
                );
            }
        }
        findings
    }

    /// The helper's rule (src/pam-helper/src/service.rs).
    fn mentions(&self, path: &Path, phase: Phase, depth: usize) -> bool {
        let Ok(text) = fs::read(path) else { return false };
        logical_lines(&String::from_utf8_lossy(&text)).iter().any(|(_, line)| {
            let mut words = line.split_whitespace();
            match words.next().map(|word| word.trim_start_matches('-').to_ascii_lowercase()) {
                Some(word) if word == phase.name() => true,
                Some(word) if word == "@include" && depth > 0 => words
                    .next()
                    .zip(self.directories.first())
                    .is_some_and(|(file, directory)| self.mentions(&directory.join(file), phase, depth - 1)),
                Some(_) | None => false,
            }
        })
    }

    fn judge(&self, service: &Path, phase: Phase) -> Vec<Finding> {
        let shown = service.display();
        let ends = |asked| {
            let mut lines = Vec::new();
            self.read(service, phase, asked, Level { stack: 0, depth: 0 }, &mut lines);
            let steps: Vec<Step> = lines.iter().map(|line| line.step.clone()).collect();
            (stack::ends(&steps), lines)
        };
        let (best, lines) = ends(Asked::Right);
        let mut findings: Vec<Finding> = lines.iter().filter_map(|line| missing(line, phase, best.success.is_none())).collect();
        if best.success.is_none() && findings.is_empty() {
            findings.push(
                Finding::warning(
                    format!("the {} lines of {shown} refuse everybody, whatever the password", phase.name()),
                    "compare them with pam.d/debian/smtp or pam.d/redhat/smtp of pamrelay",
                )
                .in_file(service, None),
            );
        }
        if phase == Phase::Auth {
            let (worst, lines) = ends(Asked::Wrong);
            findings.extend(worst.success.and_then(|by| lines.get(by)).map(|line| open(line, &shown.to_string(), worst.fails)));
        }
        findings
    }

    /// Appends the lines of one phase, those that are included in their place.
    fn read(&self, path: &Path, phase: Phase, asked: Asked, level: Level, lines: &mut Vec<Line>) {
        let text = fs::read(path).unwrap_or_default();
        for (number, line) in logical_lines(&String::from_utf8_lossy(&text)) {
            let Some(rule) = Rule::parse(&line) else { continue };
            let at = Position {
                line: number,
                column: line.find(rule.name.as_str()).map_or(1, |start| line.get(..start).unwrap_or_default().chars().count() + 1),
            };
            let mut add = |control, kind, what| {
                lines.push(Line { step: Step { level: level.stack, control, kind }, file: path.to_owned(), at, what })
            };
            let answered = |answers: &[Answer]| Kind::Module(answers.to_vec());
            match rule.of(phase) {
                Of::Another => {}
                Of::Module(control) if self.has_module(&rule.name) => {
                    add(control, answered(stack::answers(&rule.name, &rule.arguments, asked)), What::There);
                }
                Of::Module(control) => {
                    add(control, answered(&["module_unknown"]), What::MissingModule { name: rule.name, silent: rule.silent })
                }
                Of::Include(deeper) => {
                    let file = self.directories.iter().map(|directory| directory.join(&rule.name)).find(|file| file.is_file());
                    match file {
                        Some(file) if level.depth < DEEPEST_INCLUDE => {
                            if deeper > 0 {
                                add(Control::failing(), Kind::Substack, What::There);
                            }
                            self.read(&file, phase, asked, Level { stack: level.stack + deeper, depth: level.depth + 1 }, lines);
                        }
                        Some(_) | None => add(Control::failing(), answered(&["abort"]), What::MissingInclude(rule.name)),
                    }
                }
            }
        }
    }

    /// Where no module is found at all, nothing is known.
    fn has_module(&self, name: &str) -> bool {
        self.modules.is_empty() || self.modules.iter().any(|place| place.join(name.replace("$ISA/", "")).exists())
    }
}

#[derive(Clone, Copy)]
struct Level {
    stack: usize,
    /// Files around this one.
    depth: usize,
}

/// A line in its words.
struct Rule {
    silent: bool,
    kind: String,
    control: String,
    /// A module, or the file that is included.
    name: String,
    arguments: Vec<String>,
}

enum Of {
    /// A phase that is not asked about.
    Another,
    Module(Control),
    /// By how many levels the included lines are a stack of their own.
    Include(usize),
}

impl Rule {
    fn parse(line: &str) -> Option<Self> {
        let (first, rest) = word(line)?;
        let kind = first.trim_start_matches('-').to_ascii_lowercase();
        let (control, rest) = if kind == "@include" { ("include", rest) } else { word(rest)? };
        let (name, rest) = word(rest)?;
        let arguments = rest.split_whitespace().map(str::to_owned).collect();
        Some(Self { silent: first.starts_with('-'), kind, control: control.to_ascii_lowercase(), name: name.to_owned(), arguments })
    }

    fn of(&self, phase: Phase) -> Of {
        match (self.kind.as_str(), self.control.as_str()) {
            ("@include", _) => Of::Include(0),
            (kind, _) if kind != phase.name() => Of::Another,
            (_, "include") => Of::Include(0),
            (_, "substack") => Of::Include(1),
            (_, control) => Of::Module(Control::parse(control)),
        }
    }
}

/// The first word and what follows it; what stands between brackets is one word.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let end = match text.strip_prefix('[') {
        Some(inside) => inside.find(']').map_or(text.len(), |at| at + 2),
        None => text.find(char::is_whitespace).unwrap_or(text.len()),
    };
    let (first, rest) = text.split_at(end);
    (!first.is_empty()).then_some((first, rest))
}

/// As libpam and the helper read them: without comments, and one that ends in a backslash goes on in the next. Each with its number.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut begun: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let (number, mut whole) = begun.take().unwrap_or((number, String::new()));
        match line.strip_suffix('\\') {
            Some(part) => {
                whole.push_str(part);
                whole.push(' ');
                begun = Some((number, whole));
            }
            None => lines.push((number, whole + line)),
        }
    }
    lines.extend(begun);
    lines
}

fn missing(line: &Line, phase: Phase, nobody: bool) -> Option<Finding> {
    let file = line.file.display();
    let (what, repair) = match &line.what {
        What::There => return None,
        // Such a line says that the module may be missing.
        What::MissingModule { silent: true, .. } if !nobody => return None,
        What::MissingModule { name, .. } => (
            format!("{file}:{}: there is no PAM module {name}", line.at.line),
            format!("install the package that has it (apt-file search {name}; dnf provides '*/{name}'), or remove the line"),
        ),
        What::MissingInclude(name) => (
            format!("{file}:{}: {name} is included, and there is no such file in {DIRECTORY}, or it includes itself", line.at.line),
            format!("name a file of this system: ls {DIRECTORY}"),
        ),
    };
    let finding = match nobody {
        true => Finding::fault(format!("{what}; nobody passes the {} lines without it", phase.name()), repair),
        false => Finding::warning(format!("{what}; what follows from that depends on its control"), repair),
    };
    Some(finding.in_file(&line.file, Some(line.at)))
}

/// A line by which a wrong password is good enough.
fn open(line: &Line, service: &str, not_always: bool) -> Finding {
    let place = format!("{}:{}", line.file.display(), line.at.line);
    let repair = "let no line be enough that checks no password, and end the auth lines with: auth required pam_deny.so; pam.d/debian/smtp and \
                  pam.d/redhat/smtp of pamrelay are good ones";
    let finding = if not_always {
        Finding::warning(format!("{service} lets people in without their password, if the line at {place} succeeds for them"), repair)
    } else {
        Finding::fault(format!("{service} lets everybody in, whatever the password: the line at {place} is enough"), repair)
    };
    finding.in_file(&line.file, Some(line.at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Services and modules in a directory of their own.
    struct Machine {
        directory: tempfile::TempDir,
    }

    impl Machine {
        fn new(files: &[(&str, &str)]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            for (name, text) in files {
                fs::write(directory.path().join(name), text).unwrap();
            }
            fs::create_dir(directory.path().join("security")).unwrap();
            for module in ["unix", "permit", "deny", "env", "cap", "sss", "succeed_if"] {
                fs::write(directory.path().join(format!("security/pam_{module}.so")), "").unwrap();
            }
            Self { directory }
        }

        /// What is found, without what concerns the owner of the files.
        fn found(&self, service: &str) -> Vec<String> {
            let at = self.directory.path();
            let pam = Pam { directories: vec![at.to_owned()], modules: vec![at.join("security")] };
            let path = at.display().to_string();
            let said = pam.look(service).into_iter().map(|finding| finding.to_string().replace(&path, "DIR"));
            said.filter(|line| !line.contains("others than root")).map(|line| line.lines().next().unwrap_or_default().to_owned()).collect()
        }
    }

    const COMMON: [(&str, &str); 2] = [
        (
            "common-auth",
            "auth\t[success=1 default=ignore]\tpam_unix.so nullok\nauth requisite pam_deny.so\nauth required pam_permit.so\nauth optional pam_cap.so\n",
        ),
        (
            "common-account",
            "account [success=1 new_authtok_reqd=done default=ignore] pam_unix.so\naccount requisite pam_deny.so\naccount required pam_permit.so\n",
        ),
    ];

    fn found(text: &str) -> Vec<String> {
        Machine::new(&[&COMMON[..], &[("smtp", text)]].concat()).found("smtp")
    }

    #[test]
    fn a_good_service_has_no_findings() {
        for text in [
            "@include common-auth\n@include common-account\n",
            "auth include common-auth\naccount include common-account\n",
            "auth substack common-auth\n-auth optional pam_gone.so\naccount required pam_unix.so\nsession required pam_gone.so\n",
            "auth required \\\n pam_unix.so\naccount required pam_permit.so # all of them\n",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_part_that_is_not_there_is_found_with_its_place() {
        let account = "account required pam_unix.so\n";

        assert_eq!(found("@include common-auth\n").len(), 1);
        assert!(found("@include common-auth\n")[0].starts_with("fault: DIR/smtp has no line for account"));
        assert!(
            found(&format!("@include common-nothing\n{account}")).iter().any(|line| line.contains("fault: DIR/smtp has no line for auth"))
        );
        assert!(
            found(&format!("auth required pam_gone.so\n{account}"))[0].starts_with("fault: DIR/smtp:1: there is no PAM module pam_gone.so")
        );
        assert!(
            found(&format!("auth sufficient pam_gone.so\nauth required pam_unix.so\n{account}"))[0]
                .starts_with("warning: DIR/smtp:1: there is no PAM module pam_gone.so")
        );
        assert!(found(&format!("auth include gone\n{account}"))[0].starts_with("fault: DIR/smtp:1: gone is included"));
        assert!(
            found("@include common-auth\n@include common-gone\naccount required pam_unix.so\n")
                .iter()
                .any(|line| line.starts_with("fault: DIR/smtp:2: common-gone is included"))
        );
        assert!(found(&format!("auth include smtp\n{account}")).iter().any(|line| line.contains("includes itself")));
    }

    #[test]
    fn a_service_that_lets_everybody_in_is_a_fault_and_one_that_may_is_a_warning() {
        let account = "account required pam_permit.so\n";

        assert!(
            found(&format!("auth required pam_permit.so\n{account}"))[0]
                .starts_with("fault: DIR/smtp lets everybody in, whatever the password: the line at DIR/smtp:1")
        );
        assert!(found(&format!("auth sufficient pam_permit.so\nauth include common-auth\n{account}"))[0].contains("lets everybody in"));
        assert!(found(&format!("auth optional pam_env.so\nauth optional pam_unix.so\n{account}"))[0].contains("lets everybody in"));
        assert!(
            found(&format!("auth sufficient pam_succeed_if.so user = x\nauth include common-auth\n{account}"))[0]
                .starts_with("warning: DIR/smtp lets people in without")
        );
        assert!(
            found(&format!("auth required pam_deny.so\n{account}"))[0].starts_with("warning: the auth lines of DIR/smtp refuse everybody")
        );
    }

    /// As authselect of Red Hat writes it.
    const PASSWORD_AUTH: &str = "auth required pam_env.so\nauth [default=1 ignore=ignore success=ok] pam_localuser.so\nauth sufficient pam_unix.so nullok\nauth [default=1 ignore=ignore success=ok] pam_usertype.so isregular\nauth sufficient pam_sss.so forward_pass\nauth required pam_deny.so\naccount required pam_unix.so\naccount sufficient pam_localuser.so\naccount sufficient pam_usertype.so issystem\naccount [default=bad success=ok user_unknown=ignore] pam_sss.so\naccount required pam_permit.so\n";

    #[test]
    fn no_service_that_comes_with_pamrelay_is_complained_about() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("pam.d");
        let mut seen = 0;
        for entry in ["debian", "redhat", "recipes"].iter().flat_map(|part| fs::read_dir(root.join(part)).unwrap()) {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let machine = Machine::new(&[&COMMON[..], &[("smtp", text.as_str()), ("password-auth", PASSWORD_AUTH)]].concat());
            let at = machine.directory.path();
            let pam = Pam { directories: vec![at.to_owned()], modules: Vec::new() };

            let found: Vec<String> =
                Phase::ALL.iter().flat_map(|phase| pam.judge(&at.join("smtp"), *phase)).map(|finding| finding.to_string()).collect();

            assert_eq!(found, Vec::<String>::new(), "{}", path.display());
            assert!(Phase::ALL.iter().all(|phase| pam.mentions(&at.join("smtp"), *phase, DEEPEST_INCLUDE)), "{}", path.display());
            seen += 1;
        }
        assert!(seen > 5, "{seen}");
    }
}
