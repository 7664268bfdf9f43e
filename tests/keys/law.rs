//! The matrix of the permission law: one good directory, one change, one verdict.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use pamrelay::keys::law::{Breach, Law};

use crate::{needs_root, pki, skipped};

/// A uid that is neither root nor the keys user.
const STRANGER: u32 = 54_321;
/// The keys user, where the test is root and so need not be it.
const KEYS: u32 = 54_322;

struct Place {
    _root: tempfile::TempDir,
    above: PathBuf,
    certs: PathBuf,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let above = root.path().join("pamrelay");
        let certs = above.join("certs");
        fs::create_dir(&above).unwrap();
        mode(&above, 0o755);
        pki::directory(&certs);
        let file = certs.join("server.key");
        pki::file(&file, "a key\n");
        Self { above, certs, file, _root: root }
    }

    fn look(&self) -> Result<(), Vec<Breach>> {
        self.look_for("server.key")
    }

    fn look_for(&self, name: &str) -> Result<(), Vec<Breach>> {
        let keys = if geteuid().is_root() { KEYS } else { geteuid().as_raw() };
        Law::new(keys, "pamrelay-keys").open(&self.certs, &[Path::new(name)]).map(drop)
    }
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).unwrap();
}

/// The one breach there is, which must name the element.
fn breach(verdict: Result<(), Vec<Breach>>, element: &Path) -> Breach {
    let breaches = verdict.expect_err("the law was broken");
    assert_eq!(breaches.len(), 1, "{breaches:?}");
    assert_eq!(breaches[0].element, element);
    breaches.into_iter().next().unwrap()
}

#[test]
fn a_file_may_be_read_and_written_by_its_owner_and_nothing_else() {
    let place = Place::new();
    for bits in [0o600, 0o400] {
        mode(&place.file, bits);
        assert_eq!(place.look(), Ok(()), "{bits:o}");
    }
    for bits in [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o660, 0o666, 0o777, 0o700, 0o500, 0o440, 0o404, 0o4600, 0o2600, 0o1600] {
        mode(&place.file, bits);

        let breach = breach(place.look(), &place.file);

        assert_eq!(breach.found, format!("mode {bits:04o}"));
        assert_eq!(breach.wanted, "mode 0600 or stricter");
        assert_eq!(breach.repair, format!("chmod 0600 {}", place.file.display()));
    }
}

#[test]
fn the_directory_may_be_entered_by_its_owner_and_nobody_else() {
    let place = Place::new();
    for bits in [0o700, 0o500] {
        mode(&place.certs, bits);
        assert_eq!(place.look(), Ok(()), "{bits:o}");
    }
    for bits in [0o710, 0o720, 0o740, 0o701, 0o702, 0o704, 0o750, 0o755, 0o770, 0o777, 0o1777, 0o2750, 0o1700, 0o2700, 0o4700, 0o6700] {
        mode(&place.certs, bits);

        let breach = breach(place.look(), &place.certs);

        assert_eq!(breach.found, format!("mode {bits:04o}"));
        assert_eq!(breach.repair, format!("chmod 00700 {}", place.certs.display()));
    }
}

#[test]
fn directories_above_may_be_read_by_all_and_written_by_their_owner() {
    let place = Place::new();
    for bits in [0o755, 0o711, 0o700] {
        mode(&place.above, bits);
        assert_eq!(place.look(), Ok(()), "{bits:o}");
    }
    for bits in [0o775, 0o757, 0o777, 0o730, 0o703, 0o2775] {
        mode(&place.above, bits);

        let breach = breach(place.look(), &place.above);

        assert_eq!(breach.wanted, "not writable by group or others");
        assert_eq!(breach.repair, format!("chmod go-w {}", place.above.display()));
    }
}

#[test]
fn a_sticky_directory_above_is_tolerated_when_it_is_roots() {
    let place = Place::new();
    mode(&place.above, 0o1777);

    let verdict = place.look();

    if geteuid().is_root() {
        assert_eq!(verdict, Ok(()));
        chown(&place.above, Some(KEYS), None).unwrap();
        mode(&place.above, 0o1777);
        assert_eq!(breach(place.look(), &place.above).found, "mode 1777");
    } else {
        assert_eq!(breach(verdict, &place.above).found, "mode 1777");
    }
}

#[test]
fn each_element_belongs_to_root_or_the_keys_user() {
    if !needs_root("each_element_belongs_to_root_or_the_keys_user") {
        return;
    }
    let pick: [fn(&Place) -> PathBuf; 3] = [|it| it.above.clone(), |it| it.certs.clone(), |it| it.file.clone()];
    for element in pick {
        let place = Place::new();
        let element = element(&place);

        chown(&element, Some(KEYS), Some(0)).unwrap();
        assert_eq!(place.look(), Ok(()), "{}", element.display());

        chown(&element, Some(STRANGER), Some(0)).unwrap();
        let breach = breach(place.look(), &element);
        assert_eq!(breach.found, format!("owner uid {STRANGER}"));
        assert_eq!(breach.wanted, "owner root or pamrelay-keys");
        assert_eq!(breach.repair, format!("chown root: {}", element.display()));
    }
}

#[test]
fn only_a_regular_file_is_a_file() {
    let place = Place::new();
    fs::remove_file(&place.file).unwrap();

    nix::unistd::mkfifo(&place.file, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert_eq!(breach(place.look(), &place.file).found, "a FIFO");

    fs::remove_file(&place.file).unwrap();
    fs::create_dir(&place.file).unwrap();
    assert_eq!(breach(place.look(), &place.file).found, "a directory");

    fs::remove_dir(&place.file).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&place.file).unwrap();
    assert_eq!(breach(place.look(), &place.file).found, "a socket");

    fs::remove_file(&place.file).unwrap();
    let missing = breach(place.look(), &place.file);
    assert_eq!(missing.found, "nothing of that name");
    assert_eq!(missing.repair, format!("ls -la {}", place.certs.display()));
}

#[test]
fn a_device_is_no_file() {
    if !needs_root("a_device_is_no_file") {
        return;
    }
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let place = Place::new();
    fs::remove_file(&place.file).unwrap();
    if let Err(errno) = mknod(&place.file, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), makedev(1, 3)) {
        skipped(&format!("a root that may make devices; {errno}"), "a_device_is_no_file");
        return;
    }

    assert_eq!(breach(place.look(), &place.file).found, "a device");
}

#[test]
fn a_second_name_for_a_file_is_a_breach() {
    let place = Place::new();
    fs::hard_link(&place.file, place.above.join("elsewhere")).unwrap();

    let breach = breach(place.look(), &place.file);

    assert_eq!(breach.found, "2 names (hard links) lead to this file");
    assert_eq!(breach.wanted, "exactly one");
}

#[test]
fn links_inside_may_lead_to_files_inside() {
    let place = Place::new();
    let archive = place.certs.join("archive");
    let live = place.certs.join("live");
    fs::create_dir(&archive).unwrap();
    fs::create_dir(&live).unwrap();
    pki::file(&archive.join("key1.pem"), "a key\n");
    symlink("../archive/key1.pem", live.join("key.pem")).unwrap();
    symlink("live/key.pem", place.certs.join("link.key")).unwrap();

    assert_eq!(place.look_for("live/key.pem"), Ok(()));
    assert_eq!(place.look_for("link.key"), Ok(()));
    assert_eq!(place.look_for("archive/../server.key"), Ok(()));

    mode(&archive.join("key1.pem"), 0o640);
    assert_eq!(breach(place.look_for("link.key"), &archive.join("key1.pem")).found, "mode 0640");

    mode(&archive.join("key1.pem"), 0o600);
    mode(&archive, 0o775);
    assert_eq!(breach(place.look_for("link.key"), &archive).repair, format!("chmod go-w {}", archive.display()));
}

#[test]
fn links_that_leave_the_directory_are_refused_however_they_do_it() {
    let place = Place::new();
    let outside = place.above.join("outside.key");
    pki::file(&outside, "a key\n");
    let link = place.certs.join("link.key");
    let absolute_but_inside = place.file.to_str().unwrap().to_owned();
    for target in [
        outside.to_str().unwrap(),
        "../outside.key",
        "./../outside.key",
        "sub/../../outside.key",
        "../certs/server.key",
        "/proc/self/fd/0",
        &absolute_but_inside,
    ] {
        let _ = fs::create_dir(place.certs.join("sub"));
        let _ = fs::remove_file(&link);
        symlink(target, &link).unwrap();

        let breaches = place.look_for("link.key").unwrap_err();

        assert_eq!(breaches.len(), 1);
        assert!(breaches[0].found.contains("leads out of the certificate directory"), "{target}: {breaches:?}");
    }
}

#[test]
fn links_in_a_circle_or_to_nothing_are_refused() {
    let place = Place::new();
    symlink("b", place.certs.join("a")).unwrap();
    symlink("a", place.certs.join("b")).unwrap();
    assert!(place.look_for("a").unwrap_err()[0].found.contains("too many symbolic links"));

    symlink("nowhere", place.certs.join("dangling")).unwrap();
    assert_eq!(breach(place.look_for("dangling"), &place.certs.join("nowhere")).found, "nothing of that name");
}

#[test]
fn a_strangers_link_is_refused() {
    if !needs_root("a_strangers_link_is_refused") {
        return;
    }
    let place = Place::new();
    let link = place.certs.join("link.key");
    symlink("server.key", &link).unwrap();
    lchown(&link, Some(STRANGER), None).unwrap();

    let breach = breach(place.look_for("link.key"), &link);

    assert_eq!(breach.repair, format!("chown -h root: {}", link.display()));
}

#[test]
fn names_that_lead_out_or_to_no_file_are_refused() {
    let place = Place::new();
    pki::file(&place.above.join("outside.key"), "a key\n");

    for name in ["../outside.key", "..", ".", "", "/etc/passwd", "sub/..", "server.key/x"] {
        assert!(place.look_for(name).is_err(), "{name:?}");
    }
    let outside = place.look_for("/etc/passwd").unwrap_err();
    assert_eq!(outside[0].found, "a file outside the certificate directory");
    assert_eq!(place.look_for(place.file.to_str().unwrap()), Ok(()), "an absolute name inside is a name inside");
}

#[test]
fn the_directory_is_a_real_one() {
    let place = Place::new();
    let link = place.above.join("link");
    symlink("certs", &link).unwrap();
    let law = Law::new(geteuid().as_raw(), "pamrelay-keys");
    let file = [Path::new("server.key")];

    let breaches = law.open(&link, &file).unwrap_err();
    assert_eq!((breaches[0].found.as_str(), breaches[0].wanted.as_str()), ("a symbolic link", "a real directory"));

    let breaches = law.open(&place.file, &file).unwrap_err();
    assert_eq!(breaches[0].found, "not a directory");

    let breaches = law.open(&place.above.join("nowhere"), &file).unwrap_err();
    assert_eq!(breaches[0].found, "nothing of that name");

    // A link above is no more than another way to the same directory.
    let way = place.above.parent().unwrap().join("way");
    symlink("pamrelay", &way).unwrap();
    assert!(law.open(&way.join("certs"), &file).is_ok());
    assert!(law.open(&way.join("certs/../certs"), &file).is_ok());
}

#[test]
fn every_breach_is_told_at_once_and_once() {
    let place = Place::new();
    let other = place.certs.join("server.crt");
    pki::file(&other, "a certificate\n");
    mode(&place.above, 0o777);
    mode(&place.certs, 0o755);
    mode(&place.file, 0o644);
    mode(&other, 0o666);
    let law = Law::new(geteuid().as_raw(), "pamrelay-keys");
    let files = ["server.crt", "server.key", "server.key", "missing.key"].map(Path::new);

    let breaches = law.open(&place.certs, &files).unwrap_err();

    let elements: Vec<&Path> = breaches.iter().map(|breach| breach.element.as_path()).collect();
    assert_eq!(elements, [&*place.above, &place.certs, &other, &place.file, &place.certs.join("missing.key")]);
}

#[test]
fn each_repair_repairs_when_a_shell_runs_it() {
    let place = Place::new();
    let odd = place.certs.join("it's a key");
    pki::file(&odd, "a key\n");
    mode(&place.above, 0o777);
    mode(&place.certs, 0o755);
    mode(&odd, 0o644);
    fs::hard_link(&odd, place.above.join("elsewhere")).unwrap();
    let link = place.certs.join("link.key");
    symlink("../elsewhere", &link).unwrap();
    if geteuid().is_root() {
        chown(&place.certs, Some(STRANGER), None).unwrap();
    }

    for name in ["it's a key", "link.key"] {
        for breach in place.look_for(name).err().unwrap_or_default() {
            let ran = std::process::Command::new("sh").arg("-ec").arg(&breach.repair).output().unwrap();
            assert!(ran.status.success(), "{}: {}", breach.repair, String::from_utf8_lossy(&ran.stderr));
        }
        assert_eq!(place.look_for(name), Ok(()));
    }
}

#[test]
fn an_access_control_list_shows_in_the_mode_and_is_refused() {
    let place = Place::new();
    // user::rw- user:STRANGER:r-- group::--- mask::r-- other::---
    let entry = |tag: u16, rights: u16, id: u32| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat();
    let nobody = u32::MAX;
    let list = [
        2u32.to_le_bytes().to_vec(),
        entry(0x01, 6, nobody),
        entry(0x02, 4, STRANGER),
        entry(0x04, 0, nobody),
        entry(0x10, 4, nobody),
        entry(0x20, 0, nobody),
    ]
    .concat();
    let name = "system.posix_acl_access";
    if let Err(error) = rustix::fs::setxattr(&place.file, name, &list, rustix::fs::XattrFlags::empty()) {
        skipped(&format!("a file system with access control lists; {error}"), "an_access_control_list_shows_in_the_mode_and_is_refused");
        return;
    }

    let breach = breach(place.look(), &place.file);

    assert_eq!(breach.found, "mode 0640");
    mode(&place.file, 0o600); // its mask is empty now, and with it every entry
    assert_eq!(place.look(), Ok(()));
}

#[test]
fn what_is_read_is_bounded() {
    let place = Place::new();
    pki::file(&place.file, &"x".repeat(1000));
    let law = Law::new(geteuid().as_raw(), "pamrelay-keys");
    let open = || law.open(&place.certs, &[Path::new("server.key")]).unwrap().remove(0);

    assert_eq!(open().read(1000).unwrap().len(), 1000);
    assert!(open().read(999).is_err());
}

#[test]
fn set_id_and_sticky_bits_are_refused_everywhere_and_the_printed_command_clears_them() {
    let place = Place::new();
    let below = place.certs.join("archive");
    fs::create_dir(&below).unwrap();
    pki::file(&below.join("old.key"), "a key\n");
    for (element, base) in [(&place.certs, 0o700), (&below, 0o755), (&below.join("old.key"), 0o600)] {
        for special in [0o1000, 0o2000, 0o4000, 0o7000] {
            mode(element, base | special);

            let breach = breach(place.look_for("archive/old.key"), element);
            let ran = std::process::Command::new("sh").arg("-ec").arg(&breach.repair).status().unwrap();

            assert!(ran.success(), "{}", breach.repair);
            assert_eq!(place.look_for("archive/old.key"), Ok(()), "{}", breach.repair);
            assert_eq!(fs::metadata(element).unwrap().permissions().mode() & 0o7777, base);
        }
    }
}
