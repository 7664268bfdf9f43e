//! Which PAM service is asked, under which name: by listener, by rules for names, for guests.

use std::fs;
use std::time::Duration;

use pamrelay_authwire::Outcome;

use crate::pam_stage::{Helper, Stage, UNIX, words};

/// A service for guests: a program that knows one of them.
const GUESTS: &str = "auth [success=1 default=ignore] pam_exec.so quiet expose_authtok DIR/guests\nauth requisite pam_deny.so\n\
    auth required pam_permit.so\naccount required pam_permit.so\n";
const KNOWS: &str = "case \"$PAM_USER\" in friend|friend@example.org|bob|Root) [ \"$(tr -d '\\0')\" = secret ];; *) exit 1;; esac\n";

/// The main service, and one for guests.
fn with_guests() -> Stage {
    let stage = Stage::new(UNIX).script("guests", KNOWS);
    let text = GUESTS.replace("DIR", stage.dir().to_str().unwrap());
    fs::write(stage.dir().join("pam.d/smtp-guests"), text).unwrap();
    stage
        .set("GUEST_SERVICE", "smtp-guests")
        .set("GUEST_ACCOUNT", "carol")
        .set("LISTENERS", "[::]:587=smtp,guests=smtp-guests")
        .set("ACCOUNT_FAILURES", "0")
}

fn asks_on(helper: &Helper, listener: &str, user: &str, password: &str) -> String {
    words(&helper.asks_on(listener, user, password))
}

root_test! {
    fn each_listener_has_the_service_of_the_helper_s_own_list() {
        let stage = Stage::new(UNIX).set("LISTENERS", "[::]:587=smtp,office=smtp-office");
        fs::write(stage.dir().join("pam.d/smtp-office"), format!("account required pam_succeed_if.so quiet user = carol\n{UNIX}")).unwrap();
        let helper = stage.start();

        assert_eq!(asks_on(&helper, "", "bob", "right"), "accept");
        assert_eq!(asks_on(&helper, "[::]:587", "bob", "right"), "accept");
        assert_eq!(asks_on(&helper, "office", "bob", "right"), "not-permitted acct 7 account-refused");
        assert_eq!(asks_on(&helper, "office", "carol", "right"), "accept");
        for unknown in ["smtp-office", "elsewhere", "office "] {
            assert_eq!(asks_on(&helper, unknown, "bob", "right"), "unavailable start 0 no-listener", "{unknown}");
        }
        helper.waits_for_log("listener=\"office\" service=smtp-office reply=\"535 5.7.1\"");
    }

    fn a_service_without_a_file_keeps_its_own_listener_out_and_no_other() {
        let stage = Stage::new(UNIX).set("LISTENERS", "main=smtp,office=smtp-office");
        let office = stage.dir().join("pam.d/smtp-office");
        fs::write(&office, UNIX).unwrap();
        let helper = stage.start();
        assert_eq!(asks_on(&helper, "office", "bob", "right"), "accept");

        fs::remove_file(&office).unwrap();
        std::thread::sleep(Duration::from_millis(250));

        assert_eq!(asks_on(&helper, "office", "bob", "right"), "unavailable start 0 no-service");
        assert_eq!(asks_on(&helper, "main", "bob", "right"), "accept");
        fs::write(&office, UNIX).unwrap();
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(asks_on(&helper, "office", "bob", "right"), "accept");
    }

    fn every_service_must_have_its_file_at_the_start() {
        let (status, log) = Stage::new(UNIX).set("LISTENERS", "main=smtp,office=smtp-office").fails();

        assert_eq!(status, Some(78));
        assert!(log.contains("/etc/pam.d/smtp-office"), "{log}");
    }

    fn names_are_changed_by_the_rules_in_their_order_and_the_identity_is_what_pam_says() {
        let helper = Stage::new(UNIX).set("NAMES", "strip-realm=example.org,strip-domain=LAB,case=lower").start();

        for typed in ["bob", "BOB", "bob@Example.org", "LAB\\Bob@example.org", "lab\\bob"] {
            let Outcome::Accept(account) = helper.asks(typed, "right") else { panic!("{typed} was refused") };
            assert_eq!(account.user, "bob", "{typed}");
        }
        assert_eq!(words(&helper.asks("bob@example.net", "right")), "reject auth 10 refused");
        assert_eq!(words(&helper.asks("root@example.org", "right")), "reject check 0 root");
        assert_eq!(words(&helper.asks("LAB\\-f", "right")), "reject check 0 bad-name");
        helper.waits_for_log(r#"user="LAB\\Bob@example.org""#);
    }

    fn without_rules_case_and_realm_are_left_to_pam() {
        let helper = Stage::new(UNIX).start();

        assert_eq!(words(&helper.asks("Bob", "right")), "reject auth 10 refused");
        assert_eq!(words(&helper.asks("bob@example.org", "right")), "reject auth 10 refused");
    }

    fn guests_log_in_on_the_same_listener_with_the_uid_of_their_account() {
        let helper = with_guests().start();

        let Outcome::Accept(friend) = helper.asks_on("[::]:587", "friend@example.org", "secret") else { panic!("refused") };
        assert_eq!((friend.user.as_str(), friend.uid), ("friend@example.org", 20003));
        assert_eq!(asks_on(&helper, "[::]:587", "friend", "wrong"), "reject auth 7 refused");
        assert_eq!(asks_on(&helper, "[::]:587", "stranger", "secret"), "reject auth 7 refused");
        let Outcome::Accept(bob) = helper.asks_on("[::]:587", "bob", "right") else { panic!("refused") };
        assert_eq!((bob.user.as_str(), bob.uid), ("bob", 20002));
        helper.waits_for_log("service=smtp-guests reply=\"235 2.7.0\"");
    }

    fn a_guest_never_takes_the_name_of_an_account() {
        let helper = with_guests().start();

        assert_eq!(asks_on(&helper, "[::]:587", "bob", "secret"), "reject auth 7 refused", "the guests' password for bob is not bob's");
        assert_eq!(asks_on(&helper, "guests", "bob", "secret"), "reject identity 0 no-guest");
        assert_eq!(asks_on(&helper, "guests", "bob", "right"), "reject identity 0 no-guest");
        let Outcome::Accept(friend) = helper.asks_on("guests", "friend", "secret") else { panic!("refused") };
        assert_eq!((friend.user.as_str(), friend.uid), ("friend", 20003));
    }

    fn a_module_that_renames_a_guest_makes_him_neither_root_nor_an_account_nor_an_odd_name() {
        let named = |becomes: &str| {
            let service = format!("auth required pam_unix.so nodelay\nauth required FIXTURE user={becomes}\naccount required pam_permit.so\n");
            let stage = Stage::with_fixture(&service, "-DPLAIN");
            // The password is looked at by a program, and the module of the first service gives the name.
            let guests = fs::read_to_string(stage.dir().join("pam.d/smtp")).unwrap();
            let guests = guests.replace("pam_unix.so nodelay", "pam_exec.so quiet expose_authtok DIR/guests");
            let stage = stage.script("guests", KNOWS);
            fs::write(stage.dir().join("pam.d/smtp-guests"), guests.replace("DIR", stage.dir().to_str().unwrap())).unwrap();
            fs::write(stage.dir().join("pam.d/smtp"), UNIX).unwrap();
            let helper = stage.set("GUEST_SERVICE", "smtp-guests").set("GUEST_ACCOUNT", "carol").start();
            let outcome = helper.asks("friend", "secret");
            match &outcome {
                Outcome::Accept(accepted) => format!("accept {}", accepted.user),
                _ => words(&outcome),
            }
        };

        assert_eq!(named("somebody.else"), "accept somebody.else", "PAM says who it is");
        for becomes in ["root", "ROOT", "bob", "Bob"] {
            assert_eq!(named(becomes), "reject identity 0 no-guest", "{becomes}");
        }
        for becomes in ["-froot", "a/b", "a:b", "fri\u{200b}end", "\u{ff46}riend"] {
            assert_eq!(named(becomes), "unavailable identity 0 bad-name", "{becomes}");
        }
    }

    fn without_a_guest_service_a_name_that_the_host_does_not_know_is_nobody() {
        let helper = Stage::new(&GUESTS.replace("DIR/guests", "/bin/true")).start();

        assert_eq!(words(&helper.asks("friend", "secret")), "unavailable identity 0 no-such-uid");
    }
}
