//! Loading the set of keys, and replacing it.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use pamrelay::keys::{
    notices::Remark,
    ring::Ring,
    store::{PairFiles, Problem, Store, StoreSettings},
};

use crate::pki::{self, HOST};

fn place() -> (tempfile::TempDir, StoreSettings) {
    let root = tempfile::tempdir().unwrap();
    pki::directory(root.path());
    pki::pair(root.path(), "server", HOST, &rcgen::PKCS_ECDSA_P256_SHA256);
    let settings = pki::settings(root.path());
    (root, settings)
}

fn load(settings: &StoreSettings) -> Result<Store, Vec<Problem>> {
    Store::load(settings).map_err(|error| error.problems)
}

#[test]
fn a_good_set_loads_without_a_word() {
    let (root, mut settings) = place();
    pki::pair(root.path(), "client", "anything", &rcgen::PKCS_ED25519);
    pki::file(&root.path().join("relay.secret"), "s3cret with blanks \n");
    settings.client = Some(PairFiles { certificate: "client.crt".into(), key: "client.key".into() });
    settings.secrets = vec!["relay.secret".into()];

    let store = load(&settings).unwrap();

    assert_eq!(store.notices(SystemTime::now()), []);
    assert_eq!(store.server.schemes, [rustls::SignatureScheme::ECDSA_NISTP256_SHA256]);
    assert_eq!(store.client.unwrap().schemes, [rustls::SignatureScheme::ED25519]);
}

#[test]
fn a_key_of_another_certificate_is_refused_with_the_way_to_compare() {
    let (root, settings) = place();
    let key = fs::read_to_string(root.path().join("server.key")).unwrap();
    pki::pair(root.path(), "server", HOST, &rcgen::PKCS_ECDSA_P256_SHA256);
    pki::file(&root.path().join("server.key"), &key);

    let problems = load(&settings).unwrap_err();

    assert!(matches!(&problems[..], [Problem::Mismatch { .. }]), "{problems:?}");
    assert!(problems[0].to_string().contains("openssl pkey -pubout"));
}

#[test]
fn every_unusable_file_is_named_at_once() {
    let (root, mut settings) = place();
    pki::file(&root.path().join("server.crt"), "not a certificate\n");
    pki::file(&root.path().join("server.key"), "not a key\n");
    for (name, text) in [("empty", "\n"), ("two", "a\nb\n")] {
        pki::file(&root.path().join(name), text);
    }
    settings.secrets = vec!["empty".into(), "two".into()];

    let problems = load(&settings).unwrap_err();

    assert!(
        matches!(
            &problems[..],
            [Problem::NoCertificate { .. }, Problem::NoKey { .. }, Problem::BadSecret { .. }, Problem::BadSecret { .. }]
        ),
        "{problems:?}"
    );
}

#[test]
fn a_damaged_key_or_chain_is_refused_without_showing_it() {
    let (root, settings) = place();
    let key = fs::read_to_string(root.path().join("server.key")).unwrap();
    let second_line = key.lines().nth(1).unwrap();
    pki::file(&root.path().join("server.key"), &key.replacen(&second_line[..8], "AAAAAAAA", 1));

    let problems = load(&settings).unwrap_err();

    assert!(matches!(&problems[..], [Problem::BadKey { .. }]), "{problems:?}");
    assert!(!problems[0].to_string().contains(&second_line[8..24]));

    let (root, settings) = place();
    let chain = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    pki::file(&root.path().join("server.crt"), chain);
    assert!(matches!(&load(&settings).unwrap_err()[..], [Problem::BadChain { .. }]));
}

#[test]
fn a_breach_of_the_law_is_a_problem_before_anything_is_read() {
    let (root, settings) = place();
    let key = root.path().join("server.key");
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();

    let problems = load(&settings).unwrap_err();

    assert!(matches!(&problems[..], [Problem::Breach(breach)] if breach.element == key), "{problems:?}");
}

#[test]
fn names_and_dates_that_clients_will_refuse_are_noticed_but_load() {
    let (root, mut settings) = place();
    let day = Duration::from_secs(86_400);
    settings.hostname = "other.example.org".into();
    let remarks = |settings: &StoreSettings, now: SystemTime| -> Vec<Remark> {
        Store::load(settings).unwrap().notices(now).into_iter().map(|notice| notice.remark).collect()
    };

    let named = remarks(&settings, SystemTime::now());
    assert_eq!(named, [Remark::OtherName { wanted: "other.example.org".into(), found: vec![HOST.into()] }]);

    settings.hostname = HOST.into();
    let made = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["*.example.org".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    pki::file(&root.path().join("server.crt"), &params.self_signed(&made).unwrap().pem());
    pki::file(&root.path().join("server.key"), &made.serialize_pem());
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(1_580_515_200);
    assert_eq!(remarks(&settings, ends - day * 20), []);
    assert_eq!(remarks(&settings, ends - day * 13), [Remark::ExpiresSoon { left: day * 13 }]);
    assert_eq!(remarks(&settings, ends + day * 3), [Remark::Expired { ago: day * 3 }]);
    assert_eq!(remarks(&settings, ends - day * 33), [Remark::NotYetValid { wait: day * 2 }]);
}

#[test]
fn certificates_in_the_wrong_order_are_noticed() {
    let (root, settings) = place();
    let chain = root.path().join("server.crt");
    let leaf = fs::read_to_string(&chain).unwrap();
    let other = rcgen::generate_simple_self_signed(vec![HOST.into()]).unwrap().cert.pem();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "Some Issuer");
    let issuer = params.self_signed(&key).unwrap().pem();
    pki::file(&chain, &format!("{leaf}{issuer}{other}"));

    let remarks: Vec<Remark> = load(&settings).unwrap().notices(SystemTime::now()).into_iter().map(|notice| notice.remark).collect();

    assert_eq!(remarks, [Remark::BrokenChain { place: 0 }, Remark::BrokenChain { place: 1 }]);
}

#[test]
fn a_bad_set_on_reload_leaves_the_good_one_in_use() {
    let (root, settings) = place();
    let before = load(&settings).unwrap();
    let generation = before.server.generation;
    let ring = Ring::new(before);
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

    pamrelay::keys::reload(&ring, &settings);
    assert_eq!(ring.generation(), generation);

    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    pki::pair(root.path(), "server", HOST, &rcgen::PKCS_ECDSA_P384_SHA384);
    pamrelay::keys::reload(&ring, &settings);
    assert_ne!(ring.generation(), generation);
}

#[test]
fn the_same_files_are_the_same_generation_after_a_restart() {
    let (_root, settings) = place();

    assert_eq!(load(&settings).unwrap().server.generation, load(&settings).unwrap().server.generation);
    assert!(Path::new(&settings.directory).is_absolute());
}
