//! Certificates for tests: self-signed, made in memory, put into a lawful directory.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use pamrelay::keys::{
    law::Law,
    store::{PairFiles, StoreSettings},
};

pub(crate) const HOST: &str = "mail.example.org";

/// Makes the directory 0700, owned by whoever runs the test.
pub(crate) fn directory(path: &Path) {
    fs::create_dir_all(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Writes a file 0600, replacing what was there by renaming.
pub(crate) fn file(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(new, path).unwrap();
}

/// Writes `NAME.crt` and `NAME.key`, self-signed for the host.
pub(crate) fn pair(directory: &Path, name: &str, host: &str, algorithm: &'static rcgen::SignatureAlgorithm) {
    let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
    let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2999, 1, 1);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.self_signed(&key).unwrap();
    file(&directory.join(format!("{name}.crt")), &certificate.pem());
    file(&directory.join(format!("{name}.key")), &key.serialize_pem());
}

/// The same with RSA, by the project's own script.
#[allow(dead_code)]
pub(crate) fn rsa(directory: &Path, host: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("certs/make-test-pki");
    let made = Command::new(script).arg(directory).arg(host).env("ALGORITHM", "rsa").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[allow(dead_code)]
/// `server.crt` and `server.key`, no client, no secrets; the keys belong to whoever runs the test.
pub(crate) fn settings(directory: &Path) -> StoreSettings {
    StoreSettings {
        directory: directory.to_path_buf(),
        server: PairFiles { certificate: "server.crt".into(), key: "server.key".into() },
        client: None,
        secrets: Vec::new(),
        hostname: HOST.into(),
        law: Law::new(nix::unistd::geteuid().as_raw(), "pamrelay-keys"),
    }
}
