//! What guessers and owners can do within the limits, on a clock of the tests.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::lockout::Lockout;
use crate::window::Window;

fn limits(variables: &[(&str, &str)]) -> (Limits, Instant) {
    let variables = variables.iter().map(|(name, value)| (format!("PAMRELAY_{name}"), (*value).to_owned()));
    let start = Instant::now();
    (Limits::new(&Settings::read(variables).unwrap(), [7; 32], [8; 32], start), start)
}

/// The same where no back end locks accounts.
fn without_locks(variables: &[(&str, &str)]) -> (Limits, Instant) {
    let (mut limits, now) = limits(variables);
    assert!(matches!(limits.heed(&Locks::default()), Some(Rule::Pauses(_))));
    (limits, now)
}

/// A question with a password that nobody has said before.
fn from(limits: &Limits, peer: &str, user: &str) -> Keys {
    static SAID: AtomicU32 = AtomicU32::new(0);
    said(limits, peer, user, &SAID.fetch_add(1, Ordering::Relaxed).to_string())
}

fn said(limits: &Limits, peer: &str, user: &str, password: &str) -> Keys {
    limits.keys("smtp", user.as_bytes(), password.as_bytes(), peer.parse().unwrap())
}

fn fail(limits: &mut Limits, asked: &Keys, now: Instant) {
    limits.failed(asked, Refused::Password, now);
}

fn account(limits: &Limits, user: &str) -> Keys {
    from(limits, "192.0.2.1", user)
}

/// A question while no other is under way.
fn room(limits: &Limits, asked: &Keys, now: Instant) -> Room {
    limits.room(asked, [].iter(), now)
}

/// Guesses at one account after the other until that is refused; how many were answered.
fn guesses(limits: &mut Limits, peer: &str, now: Instant) -> u32 {
    for n in 0.. {
        let name = from(limits, peer, &format!("{peer} {n} {now:?}"));
        if room(limits, &name, now) != Room::Now {
            return n;
        }
        fail(limits, &name, now);
    }
    unreachable!("a limit comes first")
}

const MINUTE: Duration = Duration::from_secs(60);

/// One more failure of this account, from where it is.
fn fail_at(limits: &mut Limits, user: &str, now: Instant) {
    let asked = account(limits, user);
    fail(limits, &asked, now);
}

/// Guesses at one account from one new address after the other; how many reach PAM.
fn guesses_at_many(limits: &mut Limits, user: &str, addresses: u32, now: Instant) -> u32 {
    let mut asked = 0;
    for address in 0..addresses {
        let guess = from(limits, &format!("198.51.{}.{}", address / 256, address % 256), user);
        if room(limits, &guess, now) == Room::Now {
            fail(limits, &guess, now);
            asked += 1;
        }
    }
    asked
}

#[test]
fn ten_thousand_guesses_from_a_thousand_addresses_stay_below_what_locks_the_account() {
    for (failures, most) in [("4", 3), ("10", 8), ("2", 1), ("1", 1)] {
        let (mut limits, mut now) = limits(&[("ACCOUNT_FAILURES", failures), ("FAILURES_PER_SECOND", "100000")]);

        for _ in 0..10 {
            let asked = guesses_at_many(&mut limits, "alice", 1000, now);
            assert!(asked <= most, "{failures}: {asked}");
            now += 3 * MINUTE; // the ten of them are within one window
        }

        let in_window = limits.failures_of(&account(&limits, "alice"), now);
        assert_eq!(in_window, most as usize, "{failures}");
        assert_eq!(room(&limits, &account(&limits, "bob"), now), Room::Now, "others are not touched");
    }
}

#[test]
fn the_owner_logs_in_from_where_he_did_lately_whoever_guesses() {
    let (mut limits, now) = limits(&[]);
    limits.accepted(&account(&limits, "alice"), now);

    guesses_at_many(&mut limits, "alice", 1000, now);

    assert_eq!(room(&limits, &from(&limits, "203.0.113.9", "alice"), now), Room::Never(Reason::AccountFailures));
    assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
    limits.accepted(&account(&limits, "alice"), now);
    assert_eq!(
        room(&limits, &from(&limits, "203.0.113.9", "alice"), now),
        Room::Never(Reason::AccountFailures),
        "a success takes nothing back"
    );
    fail_at(&mut limits, "alice", now);
    assert_eq!(
        room(&limits, &account(&limits, "alice"), now),
        Room::Never(Reason::AccountFailures),
        "the back end's own count is the last word"
    );
}

#[test]
fn an_account_is_forgiven_when_its_failures_leave_the_window() {
    let (mut limits, now) = limits(&[]);
    for minute in 0..3 {
        fail_at(&mut limits, "alice", now + minute * MINUTE);
    }
    let state = limits.account("ALICE", now + 2 * MINUTE).unwrap();

    assert_eq!(state.failures, 3);
    assert!(state.wait.abs_diff(28 * MINUTE) < Duration::from_secs(3), "{state:?}");
    assert_eq!(room(&limits, &account(&limits, "alice"), now + 29 * MINUTE), Room::Never(Reason::AccountFailures));
    assert_eq!(room(&limits, &account(&limits, "alice"), now + 31 * MINUTE), Room::Now);
    assert_eq!(limits.account("alice", now + 31 * MINUTE), None);
}

#[test]
fn a_lock_out_in_the_stack_makes_the_limit_stricter_and_never_looser() {
    let (mut limits, now) = limits(&[("FAILURES_PER_SECOND", "100000")]);
    let lockout = |failures, minutes| Locks { faillock: Some(Lockout { failures, window: minutes * MINUTE }), perhaps: None };
    let cautious = Rule::Window(Window { most: 4, length: 30 * MINUTE });

    assert!(limits.heed(&lockout(3, 60)).is_some());
    assert_eq!(guesses_at_many(&mut limits, "alice", 100, now), 1);
    fail_at(&mut limits, "alice", now);
    assert_eq!(limits.failures_of(&account(&limits, "alice"), now + 59 * MINUTE), 2);
    assert!(limits.heed(&lockout(3, 60)).is_none(), "no news");
    limits.heed(&lockout(100, 1));
    assert_eq!(limits.per_account(), cautious);
    limits.heed(&Locks { faillock: None, perhaps: Some("pam_ldap.so".into()) });
    assert_eq!(limits.per_account(), cautious, "who knows what the directory does");
}

#[test]
fn pauses_hold_only_where_nothing_locks_and_nobody_chose_a_limit() {
    let directory = Locks { faillock: None, perhaps: Some("pam_sss.so".into()) };
    let faillock = Locks { faillock: Some(Lockout { failures: 3, window: 15 * MINUTE }), perhaps: None };
    let window = |most| Rule::Window(Window { most, length: 30 * MINUTE });
    let pauses = Rule::Pauses(30 * MINUTE);
    for (variables, locks, rule) in [
        (&[][..], &Locks::default(), pauses),
        (&[], &directory, window(4)),
        (&[], &faillock, window(2)),
        (&[("LOCKOUT", "none")], &directory, pauses),
        (&[("LOCKOUT", "none")], &faillock, window(2)),
        (&[("ACCOUNT_FAILURES", "4")], &Locks::default(), window(4)),
        (&[("ACCOUNT_FAILURES", "0")], &Locks::default(), window(usize::MAX)),
        (&[("ACCOUNT_FAILURES", "10"), ("LOCKOUT", "none")], &directory, window(10)),
    ] {
        let (mut limits, _) = limits(variables);
        limits.heed(locks);

        assert_eq!(limits.per_account(), rule, "{variables:?} {locks:?}");
    }
}

#[test]
fn at_home_a_new_password_may_be_mistyped_five_times_and_then_costs_seconds() {
    let (mut limits, now) = without_locks(&[]);
    limits.accepted(&account(&limits, "alice"), now);

    for _ in 0..4 {
        assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
        fail_at(&mut limits, "alice", now);
    }
    assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now, "one accept, four wrong, then the right password");
    fail_at(&mut limits, "alice", now);
    assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Never(Reason::AccountFailures));
    let waits = limits.account_from(&account(&limits, "alice"), now).unwrap();
    assert!(waits.failures == 5 && waits.wait <= Duration::from_secs(11), "{waits:?}");
    assert_eq!(room(&limits, &account(&limits, "alice"), now + waits.wait), Room::Now);
    fail_at(&mut limits, "alice", now + waits.wait);
    assert_eq!(room(&limits, &account(&limits, "alice"), now + waits.wait + MINUTE / 2), Room::Now, "twenty seconds after six");
}

#[test]
fn on_the_first_day_of_a_journey_three_mistakes_cost_seconds() {
    let (mut limits, now) = without_locks(&[]);

    (0..3).for_each(|_| fail_at(&mut limits, "alice", now));

    assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Never(Reason::AccountFailures));
    assert_eq!(room(&limits, &account(&limits, "alice"), now + Duration::from_secs(11)), Room::Now);
    assert!(limits.release_account("alice"));
    assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now, "and none of it if root says so");
}

#[test]
fn one_guesser_holds_up_others_for_seconds_and_the_owner_not_at_all() {
    let (mut limits, start) = without_locks(&[("FAILURES_PER_SECOND", "100000")]);
    limits.accepted(&account(&limits, "alice"), start);
    let (mut asked, mut held_up) = (0, 0);

    for second in 0..3600 {
        let now = start + Duration::from_secs(second);
        let guess = from(&limits, "198.51.100.1", "alice");
        while room(&limits, &guess, now) == Room::Now {
            fail(&mut limits, &guess, now);
            asked += 1;
        }
        held_up += u32::from(room(&limits, &from(&limits, "203.0.113.9", "alice"), now) != Room::Now);
        assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
    }

    assert!((10..=22).contains(&asked), "{asked} guesses of one network in an hour");
    assert!(held_up <= 60, "{held_up} seconds of an hour");
}

#[test]
fn guesses_from_many_networks_for_hours_are_bounded_and_the_owner_logs_in_at_home() {
    let (mut limits, start) = without_locks(&[("FAILURES_PER_SECOND", "100000"), ("PEER_FAILURES_PER_MINUTE", "0")]);
    limits.accepted(&account(&limits, "alice"), start);
    let mut asked = 0;

    for step in 0..6 * 720 {
        let now = start + Duration::from_secs(5 * step);
        asked += guesses_at_many(&mut limits, "alice", 40, now);
        assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
    }

    assert!(asked <= 6 * 40, "{asked} guesses in six hours");
}

#[test]
fn parallel_guesses_count_like_others_where_there_are_pauses() {
    let (limits, now) = without_locks(&[]);
    let mut under_way: Vec<Keys> = Vec::new();
    let mut rooms = Vec::new();
    for n in 0..10 {
        let guess = from(&limits, &format!("198.51.100.{n}"), "alice");
        rooms.push(limits.room(&guess, under_way.iter(), now));
        if rooms[n] == Room::Now {
            under_way.push(guess);
        }
    }

    assert_eq!(rooms[..3], [Room::Now; 3]);
    assert_eq!(rooms[3..], [Room::Later; 7]);
}

#[test]
fn a_rule_that_changes_forgets_no_failure() {
    let (mut limits, now) = without_locks(&[]);
    guesses_at_many(&mut limits, "alice", 100, now);
    limits.accepted(&account(&limits, "alice"), now);
    (0..2).for_each(|_| fail_at(&mut limits, "alice", now));

    limits.heed(&Locks { faillock: Some(Lockout { failures: 5, window: 15 * MINUTE }), perhaps: None });

    assert_eq!(limits.failures_of(&account(&limits, "alice"), now), 5);
    assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Never(Reason::AccountFailures));
}

#[test]
fn a_site_of_many_networks_leaves_something_to_others() {
    for site in ["2001:db8:1", "198.51.100"] {
        let (mut limits, now) = without_locks(&[]);
        let mut asked = 0;
        for n in 0..250 {
            let peer = if site.contains(':') { format!("{site}:{n:x}::1") } else { format!("{site}.{n}") };
            asked += guesses(&mut limits, &peer, now);
        }

        assert_eq!(asked, 100, "half of the 200 that may fail at once: {site}");
        let inside = if site.contains(':') { "2001:db8:1:ffff::9" } else { "198.51.100.254" };
        assert_eq!(room(&limits, &from(&limits, inside, "alice"), now), Room::Never(Reason::PeerFailures));
        for outside in ["2001:db8:2::1", "198.51.101.1"] {
            assert_eq!(room(&limits, &from(&limits, outside, "alice"), now), Room::Now, "{outside}");
        }
        assert!(limits.site(inside.parse().unwrap(), now).is_some());
        limits.accepted(&from(&limits, inside, "alice"), now);
        assert_eq!(room(&limits, &from(&limits, inside, "alice"), now), Room::Now, "known there");
        assert!(limits.release_network(inside.parse().unwrap()));
        assert_eq!(room(&limits, &from(&limits, inside, "bob"), now), Room::Now);
    }
}

#[test]
fn the_same_wrong_password_again_is_no_guess() {
    let (mut limits, now) = limits(&[]);
    limits.accepted(&account(&limits, "alice"), now);
    let telephone = said(&limits, "192.0.2.1", "alice", "last year's");
    let mut asked = 0;

    for minute in 0..7 * 24 * 60 {
        let now = now + minute * MINUTE;
        match room(&limits, &telephone, now) {
            Room::Now => {
                fail(&mut limits, &telephone, now);
                asked += 1;
            }
            other => assert_eq!(other, Room::Again),
        }
        assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now, "the owner beside it");
        assert_eq!(room(&limits, &from(&limits, "203.0.113.9", "alice"), now), Room::Now, "and elsewhere");
        assert_eq!(room(&limits, &account(&limits, "bob"), now), Room::Now, "and the others in the office");
    }
    assert!((336..=2 * 337).contains(&asked), "PAM was asked {asked} times in a week");
}

#[test]
fn guessers_and_an_old_telephone_together_do_not_shut_the_owner_out() {
    let (mut limits, now) = limits(&[("FAILURES_PER_SECOND", "100000")]);
    limits.accepted(&account(&limits, "alice"), now);
    let telephone = said(&limits, "192.0.2.1", "alice", "last year's");
    let mut shut_out = 0;

    for minute in 0..2 * 24 * 60 {
        let now = now + minute * MINUTE;
        guesses_at_many(&mut limits, "alice", 20, now);
        if room(&limits, &telephone, now) == Room::Now {
            fail(&mut limits, &telephone, now);
        }
        shut_out += u32::from(room(&limits, &account(&limits, "alice"), now) != Room::Now);
    }

    assert!(shut_out <= 31, "{shut_out} minutes of two days: one window, the first time");
}

#[test]
fn a_success_takes_nothing_back_that_was_counted_for_its_network() {
    let (mut limits, now) = limits(&[]);
    guesses(&mut limits, "192.0.2.1", now);

    let alice = account(&limits, "alice");
    limits.accepted(&alice, now);

    assert_eq!(room(&limits, &account(&limits, "bob"), now), Room::Never(Reason::PeerFailures));
    assert_eq!(room(&limits, &alice, now), Room::Now);
}

#[test]
fn a_guest_of_the_same_name_makes_no_network_known_for_the_account() {
    let (mut limits, now) = limits(&[]);
    let guest = from(&limits, "198.51.100.1", "alice@elsewhere.example");
    limits.accepted(&guest, now);

    assert_eq!(limits.standing(&guest, now), Standing::Known);
    assert_eq!(limits.standing(&from(&limits, "198.51.100.1", "alice"), now), Standing::Stranger);
    let peer = "198.51.100.1".parse().unwrap();
    limits.accepted(&limits.keys("smtp", b"bob", b"", peer), now);
    assert_eq!(limits.standing(&limits.keys("smtp", b"BOB", b"", peer), now), Standing::Known);
    assert_eq!(limits.standing(&limits.keys("smtp-guests", b"bob", b"", peer), now), Standing::Stranger);
}

#[test]
fn an_account_with_very_many_networks_pushes_out_few_others() {
    let (mut limits, now) = limits(&[]);
    let others: Vec<Keys> = (0..100).map(|n| from(&limits, "192.0.2.1", &format!("user{n}"))).collect();
    others.iter().for_each(|other| limits.accepted(other, now));

    for n in 0..50_000u32 {
        let wanderer = from(&limits, &format!("2001:db8:{:x}:{:x}::1", n >> 16, n & 0xffff), "wanderer");
        limits.accepted(&wanderer, now + Duration::from_secs(1));
    }

    let left = others.iter().filter(|other| limits.standing(other, now) == Standing::Known).count();
    assert!(left >= 98, "{left} of 100");
}

/// What a client hears, and what comes of it when PAM gives this answer.
fn answered(limits: &mut Limits, asked: &Keys, refused: Refused, now: Instant) -> &'static str {
    match room(limits, asked, now) {
        Room::OnceMore if refused == Refused::Name => limits.still_unknown(asked, now),
        Room::Now | Room::OnceMore => limits.failed(asked, refused, now),
        Room::Again => {}
        Room::Never(_) => return "454",
        Room::Later => return "later",
    }
    "535"
}

#[test]
fn a_name_that_pam_does_not_know_is_answered_as_one_that_it_knows() {
    let unlimited = &[("FAILURES_PER_SECOND", "100000")];
    for (limits, now) in [limits(unlimited), without_locks(unlimited)] {
        is_answered_alike(limits, now);
    }
}

fn is_answered_alike(mut limits: Limits, now: Instant) {
    let mut random = 1u64;
    let mut dice = |sides: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % sides
    };

    for round in 0..200u64 {
        let passwords = 1 + dice(5);
        let pause = 1 << dice(11);
        let mut second = round * 100_000;
        for try_ in 0..100 {
            second += dice(pause);
            let (now, password) = (now + Duration::from_secs(second), dice(passwords).to_string());
            let [known, unknown] = [("alice", Refused::Password), ("nobody", Refused::Name)].map(|(user, refused)| {
                let asked = said(&limits, &format!("2001:db8:{round:x}:{try_:x}::1"), &format!("{user}{round}"), &password);
                answered(&mut limits, &asked, refused, now)
            });
            assert_eq!(known, unknown, "round {round}, try {try_}, second {second}");
        }
    }
}

#[test]
fn a_name_that_pam_did_not_know_is_asked_for_again_after_a_minute_and_once_at_a_time() {
    let (mut limits, now) = limits(&[]);
    let away = said(&limits, "192.0.2.1", "alice", "right, but the directory is away");
    (0..2).for_each(|_| assert_eq!(answered(&mut limits, &away, Refused::Name, now), "535"));

    assert_eq!(room(&limits, &away, now + UNKNOWN / 2), Room::Again);
    assert_eq!(room(&limits, &away, now + UNKNOWN), Room::OnceMore);
    assert_eq!(limits.room(&away, [away].iter(), now + UNKNOWN), Room::Again);
    limits.still_unknown(&away, now + UNKNOWN);
    assert_eq!(limits.failures_of(&away, now + UNKNOWN), 2, "nothing was counted for it");
    assert_eq!(room(&limits, &away, now + UNKNOWN * 3 / 2), Room::Again);
    assert_eq!(room(&limits, &away, now + UNKNOWN * 2), Room::OnceMore);
    limits.accepted(&away, now + 2 * UNKNOWN);
    assert_eq!(limits.standing(&away, now + 2 * UNKNOWN), Standing::Known);
}

#[test]
fn what_was_said_of_one_spelling_is_not_asked_once_more_for_another() {
    let (mut limits, mut now) = limits(&[]);

    for round in 0..5 {
        for n in 0..3 {
            let elsewhere = said(&limits, "192.0.2.1", "LAB\\alice", &format!("{round} {n}"));
            answered(&mut limits, &elsewhere, Refused::Name, now);
        }
        now += 31 * MINUTE;
    }
    let asked = |limits: &mut Limits| {
        let mut asked = 0;
        for guess in (0..5).flat_map(|round| (0..3).map(move |n| format!("{round} {n}"))) {
            let guess = said(limits, "192.0.2.1", "alice", &guess);
            if [Room::Now, Room::OnceMore].contains(&room(limits, &guess, now)) {
                limits.failed(&guess, Refused::Password, now);
                asked += 1;
            }
        }
        asked
    };

    assert_eq!(asked(&mut limits), 3);
}

#[test]
fn an_outage_that_ends_lets_no_more_guesses_through_than_at_any_time() {
    let (mut limits, mut now) = limits(&[("FAILURES_PER_SECOND", "100000")]);
    let guesses: Vec<Keys> = (0..20).map(|n| said(&limits, &format!("192.0.2.{n}"), "alice", &n.to_string())).collect();
    for guess in &guesses {
        if answered(&mut limits, guess, Refused::Name, now) == "454" {
            break;
        }
        now += Duration::from_secs(1);
    }
    now += UNKNOWN;

    let mut under_way: Vec<Keys> = Vec::new();
    for guess in &guesses {
        if [Room::Now, Room::OnceMore].contains(&limits.room(guess, under_way.iter(), now)) {
            under_way.push(*guess);
        }
    }
    let before = limits.failures_of(&guesses[0], now);
    under_way.iter().for_each(|guess| fail(&mut limits, guess, now));

    assert!(limits.failures_of(&guesses[0], now) <= 3, "{before} {}", under_way.len());
    assert_eq!(limits.failures_of(&guesses[0], now), before + under_way.len(), "what PAM refused is counted");
}

#[test]
fn a_password_that_became_right_is_asked_again_while_tries_are_left() {
    let (mut limits, now) = limits(&[]);
    let new = said(&limits, "192.0.2.1", "alice", "not there yet");
    fail(&mut limits, &new, now);

    assert_eq!(room(&limits, &new, now), Room::Now);
    limits.accepted(&new, now);
    fail_at(&mut limits, "alice", now);
    assert_eq!(room(&limits, &new, now), Room::Now, "and is no longer known as wrong");
}

#[test]
fn what_is_released_may_try_again() {
    let (mut limits, now) = limits(&[]);
    guesses_at_many(&mut limits, "alice", 9, now);
    guesses(&mut limits, "192.0.2.1", now);
    assert!(limits.network("192.0.2.1".parse().unwrap(), now).is_some());

    assert!(limits.release_account("LAB\\Alice"));
    assert!(!limits.release_account("alice"));
    assert!(limits.release_network("192.0.2.1".parse().unwrap()));

    assert_eq!((limits.account("alice", now), limits.network("192.0.2.1".parse().unwrap(), now)), (None, None));
    assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
    guesses_at_many(&mut limits, "alice", 9, now);
    limits.release_all();
    assert_eq!(room(&limits, &account(&limits, "alice"), now), Room::Now);
}

#[test]
fn nought_is_no_limit_for_accounts() {
    let (mut limits, now) = limits(&[("ACCOUNT_FAILURES", "0"), ("FAILURES_PER_SECOND", "100000"), ("PEER_FAILURES_PER_MINUTE", "0")]);

    assert_eq!(guesses_at_many(&mut limits, "alice", 500, now), 500);
}

#[test]
fn spelling_makes_no_second_account() {
    let (limits, _) = limits(&[]);

    for (one, other) in [
        ("alice", "aLICE"),
        ("alice", "LAB\\alice"),
        ("alice", "lab.test\\Alice"),
        ("alice", "alice@lab.test"),
        ("alice", "alice@LAB@TEST"),
        ("alice", "LAB\\alice@lab.test"),
        ("alice", "LAB\\ alice @lab.test"),
        ("zo\u{eb}", "ZO\u{cb}"),
        ("zo\u{eb}", "zoe"),
        ("alice", "LAB+alice"),
        ("strasse", "Stra\u{df}e"),
        ("k", "\u{212a}"),
        ("\u{3c3}", "\u{3c2}"),
    ] {
        assert_eq!(account(&limits, one).account, account(&limits, other).account, "{one} {other}");
    }
    for (one, other) in [("alice", "alicf"), ("first last", "firstlast"), ("@a", "@b"), ("A\\", "B\\")] {
        assert_ne!(account(&limits, one).account, account(&limits, other).account, "{one} {other}");
    }
}

#[test]
fn a_network_is_an_address_or_a_64() {
    let (limits, _) = limits(&[]);
    let network = |peer| from(&limits, peer, "alice").network;

    assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
    assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
    assert_ne!(network("1.2.3.4"), network("102:304::"));
    assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.1"));
}

#[test]
fn a_network_has_half_a_minute_s_failures_at_once_and_then_its_rate() {
    let (mut limits, now) = limits(&[]);

    assert_eq!(guesses(&mut limits, "192.0.2.1", now), 30);
    assert_eq!(room(&limits, &account(&limits, "another"), now), Room::Never(Reason::PeerFailures));
    assert_eq!(guesses(&mut limits, "192.0.2.1", now + Duration::from_secs(2)), 2);
    assert_eq!(guesses(&mut limits, "192.0.2.2", now), 30, "others are not touched");
}

#[test]
fn one_network_never_uses_up_what_is_meant_for_all() {
    for (in_all, of_one) in [("20", "60"), ("1", "60"), ("1", "1000000"), ("20", "1000000")] {
        let (mut limits, mut now) = limits(&[("FAILURES_PER_SECOND", in_all), ("PEER_FAILURES_PER_MINUTE", of_one)]);

        for _ in 0..60 {
            now += Duration::from_secs(1);
            guesses(&mut limits, "192.0.2.1", now);
            assert_eq!(room(&limits, &from(&limits, "192.0.2.2", "bob"), now), Room::Now, "{in_all} {of_one}");
        }
    }
}

#[test]
fn nought_is_no_limit_for_networks() {
    let (mut limits, now) = limits(&[("PEER_FAILURES_PER_MINUTE", "0")]);

    assert_eq!(guesses(&mut limits, "192.0.2.1", now), 200);
    assert_eq!(room(&limits, &account(&limits, "another"), now), Room::Never(Reason::AllFailures));
}

#[test]
fn guesses_under_way_count_as_if_they_had_failed() {
    let (mut limits, now) = limits(&[("PEER_FAILURES_PER_MINUTE", "4")]);
    let (bob, carol, dave) = (account(&limits, "bob"), account(&limits, "carol"), account(&limits, "dave"));

    assert_eq!(limits.room(&dave, [bob].iter(), now), Room::Now);
    assert_eq!(limits.room(&dave, [bob, carol].iter(), now), Room::Later);
    assert_eq!(limits.room(&from(&limits, "192.0.2.2", "dave"), [bob, carol].iter(), now), Room::Now);
    limits.accepted(&carol, now);
    assert_eq!(limits.room(&dave, [bob, carol].iter(), now), Room::Now, "carol may be trusted to know her password");
    assert_eq!(limits.room(&bob, [bob; 3].iter(), now), Room::Later);
}

#[test]
fn failures_in_all_have_a_rate_and_a_burst() {
    let (mut limits, now) = limits(&[("FAILURES_PER_SECOND", "2")]);
    for n in 0..20 {
        assert!(limits.left_in_all(now) > 0);
        let asked = account(&limits, &n.to_string());
        fail(&mut limits, &asked, now);
    }

    assert_eq!(limits.left_in_all(now), 0);
    assert_eq!(limits.left_in_all(now + Duration::from_secs(1)), 2);
}

#[test]
fn an_account_accepted_lately_passes_the_other_limits_there() {
    let (mut limits, now) = limits(&[]);
    let alice = from(&limits, "192.0.2.1", "alice");
    limits.accepted(&alice, now);

    for host in 1..=50 {
        guesses(&mut limits, &format!("192.0.2.{host}"), now);
        guesses(&mut limits, &format!("203.0.{host}.1"), now);
    }

    assert_eq!(room(&limits, &from(&limits, "192.0.2.1", "bob"), now), Room::Never(Reason::PeerFailures));
    assert_eq!(room(&limits, &from(&limits, "198.51.100.1", "alice"), now), Room::Never(Reason::AllFailures));
    assert!(limits.everybody(now).is_some());
    assert_eq!(room(&limits, &alice, now), Room::Now);
    fail(&mut limits, &alice, now);
    assert_eq!(limits.left_in_all(now + Duration::from_millis(50)), 1, "the end of the limit was not moved");
    assert!(limits.is_known(&alice, now + LATELY - Duration::from_secs(1)));
    assert!(!limits.is_known(&alice, now + LATELY));
}

#[test]
fn a_flood_of_names_does_not_wash_out_the_attacked() {
    let (mut limits, now) = limits(&[]);
    let attacked = account(&limits, "root-of-all-mail");
    (0..3).for_each(|_| fail(&mut limits, &attacked, now));

    // As many as the limit in all lets through in a window.
    for n in 0..36_000u32 {
        let name = account(&limits, &n.to_string());
        fail(&mut limits, &name, now + Duration::from_millis(u64::from(n) * 50));
    }

    assert_eq!(limits.failures_of(&attacked, now + 29 * MINUTE), 3);
}

#[test]
fn known_pairs_outlive_a_restart_and_no_leap_of_the_clock_makes_them_last_longer_than_seven_days() {
    let (mut before, now) = limits(&[]);
    let alice = account(&before, "alice");
    before.accepted(&alice, now);
    let pairs = before.pairs_to_keep(1_800_000_000, now + 2 * MINUTE).unwrap();
    assert!(before.pairs_to_keep(1_800_000_000, now).is_none(), "no news");
    before.accepted(&alice, now + MINUTE);
    assert!(before.pairs_to_keep(1_800_000_000, now).is_none(), "nor within an hour");
    before.accepted(&alice, now + 61 * MINUTE);
    assert!(before.pairs_to_keep(1_800_000_000, now).is_some());

    for (host, days, known) in [
        (1_800_000_000, 0, true),
        (1_800_000_000 + 6 * 86_400, 0, true),
        (1_800_000_000 + 8 * 86_400, 0, false),
        (0, 6, true),
        (0, 8, false),
        (u64::MAX, 0, false),
    ] {
        let (mut after, now) = limits(&[]);
        after.remember_pairs(&pairs, host, now);

        let later = now + Duration::from_secs(days * 86_400);
        assert_eq!(after.standing(&account(&after, "alice"), later) == Standing::Known, known, "{host} {days}");
        assert_eq!(after.standing(&account(&after, "bob"), later), Standing::Stranger);
    }
}

#[test]
fn where_nothing_locks_strangers_do_not_keep_pam_from_being_asked_again_about_a_password_that_was_set_later() {
    for from_where in ["192.0.2.1", "192.0.2.200"] {
        let (mut limits, start) = without_locks(&[]);
        let known = said(&limits, "192.0.2.1", "bob", "old");
        limits.accepted(&known, start);
        let early = said(&limits, from_where, "bob", "new");
        fail(&mut limits, &early, start); // typed before the administrator set it
        let (mut guesses, mut asked) = (0, 0);
        for second in (0..6 * 3600u64).step_by(10) {
            let now = start + Duration::from_secs(second);
            let stranger = from(&limits, &format!("198.51.100.{}", second / 10 % 200), "bob");
            if room(&limits, &stranger, now) == Room::Now {
                fail(&mut limits, &stranger, now);
                guesses += 1;
            }
            assert_ne!(room(&limits, &early, now), Room::Again, "{from_where}: {second}");
            asked += usize::from(room(&limits, &early, now) == Room::Now);
        }
        assert!(guesses > 60, "{guesses}");
        assert!(asked > 0 && (from_where != "192.0.2.1" || asked == 2160), "{from_where}: {asked}");
    }
}

#[test]
fn where_nothing_locks_a_telephone_with_an_old_password_leaves_its_owner_at_home_tries() {
    let (mut limits, start) = without_locks(&[]);
    let old = said(&limits, "192.0.2.1", "bob", "old");
    limits.accepted(&old, start);
    let mut asked = 0;
    for second in (0..24 * 3600u64).step_by(60) {
        let now = start + Duration::from_secs(second);
        if room(&limits, &old, now) == Room::Now {
            fail(&mut limits, &old, now);
            asked += 1;
        }
        let right = from(&limits, "192.0.2.1", "bob");
        assert_eq!(room(&limits, &right, now), Room::Now, "{second}");
    }
    assert!(asked <= 24 * 2 * 3, "{asked}");
}
