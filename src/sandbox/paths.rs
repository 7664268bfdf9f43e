//! Landlock: which files a role can reach, whatever its user may.
//!
//! Invariant: every right of the newest version we know is handled, so what no rule gives is refused; a kernel
//! that knows fewer rights is reported, right by right.
//!
//! Version 9 (connecting to Unix sockets by path) is left out on purpose: the front reconnects to its three
//! sockets that way, and has nothing else to connect to. A rule follows the directory it was made for, not its
//! name: where a directory may be replaced by another of the same name, the rule is on its parent.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::{Missing, SandboxError};

const NEWEST: ABI = ABI::V7;

/// What a role may do below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Read files and list directories.
    Read,
    /// The same, and make, change, rename and remove files and directories.
    ReadWrite,
    /// The same, and make sockets.
    ReadWriteSockets,
}

/// What to do when a path is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Skip,
    Fail,
}

/// Which TCP a role may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tcp {
    /// Neither bind nor connect.
    Nothing,
    /// Connect anywhere, from a port the kernel chooses.
    Connect,
}

/// One path a role may reach.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub path: PathBuf,
    pub reach: Reach,
    pub absent: Absent,
}

/// Confines this thread, and all that come from it, to the rules; says what the kernel lacks.
pub(super) fn confine(rules: &[Rule], tcp: Tcp) -> Result<Vec<Missing>, SandboxError> {
    let status = build(rules, tcp)?;
    Ok(missing(&status))
}

fn build(rules: &[Rule], tcp: Tcp) -> Result<RestrictionStatus, SandboxError> {
    let net: BitFlags<AccessNet> = match tcp {
        Tcp::Nothing => AccessNet::from_all(NEWEST),
        Tcp::Connect => AccessNet::BindTcp.into(),
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(net))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.create())
        .map_err(landlock_error)?;
    for rule in rules {
        ruleset = add(ruleset, rule)?;
    }
    if tcp == Tcp::Connect {
        // Port 0: a source address may be chosen, a port may not.
        ruleset = ruleset.add_rule(NetPort::new(0, AccessNet::BindTcp)).map_err(landlock_error)?;
    }
    ruleset.restrict_self().map_err(landlock_error)
}

fn add(ruleset: RulesetCreated, rule: &Rule) -> Result<RulesetCreated, SandboxError> {
    let failed = |reason: String| SandboxError::Rule { path: rule.path.clone(), reason };
    let fd = match (PathFd::new(&rule.path), rule.absent) {
        (Ok(fd), _) => fd,
        (Err(_), Absent::Skip) => return Ok(ruleset),
        (Err(error), Absent::Fail) => return Err(failed(error.to_string())),
    };
    let rights = if rule.path.is_dir() { rights(rule.reach) } else { rights(rule.reach) & AccessFs::from_file(NEWEST) };
    ruleset.add_rule(PathBeneath::new(fd, rights)).map_err(|error| failed(error.to_string()))
}

fn rights(reach: Reach) -> BitFlags<AccessFs> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    let write = make_bitflags!(AccessFs::{
        WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
    });
    match reach {
        Reach::Read => read,
        Reach::ReadWrite => read | write,
        Reach::ReadWriteSockets => read | write | AccessFs::MakeSock,
    }
}

/// What the running kernel could not enforce.
fn missing(status: &RestrictionStatus) -> Vec<Missing> {
    let version = match (&status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) | (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => {
            return vec![Missing::Landlock];
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => effective_abi,
    };
    [
        (ABI::V3, Missing::LandlockTruncate),
        (ABI::V4, Missing::LandlockTcp),
        (ABI::V5, Missing::LandlockDevices),
        (ABI::V6, Missing::LandlockScopes),
    ]
    .into_iter()
    .filter(|(since, _)| version < *since)
    .map(|(_, part)| part)
    .collect()
}

fn landlock_error(error: RulesetError) -> SandboxError {
    SandboxError::Landlock(error.to_string())
}

impl Rule {
    pub(super) fn read(path: impl AsRef<Path>, absent: Absent) -> Self {
        Self { path: path.as_ref().to_path_buf(), reach: Reach::Read, absent }
    }
}
