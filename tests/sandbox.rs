//! The cages, from inside: each attack of a captured role runs in a process of its own that has entered the real
//! cage, and must fail; and each role does its work there.
//!
//! A cage is entered by the only thread of a process, so this program has no test harness of threads: it starts
//! itself again for every role and every attack.

use std::process::ExitCode;

#[path = "support/pki.rs"]
mod pki;

#[path = "sandbox/attacks.rs"]
mod attacks;
#[path = "sandbox/roles.rs"]
mod roles;
#[path = "sandbox/walls.rs"]
mod walls;
#[path = "sandbox/work.rs"]
mod work;

/// One test: what it shows, and whether it can show it without root.
struct Test {
    name: &'static str,
    needs: Needs,
    run: fn(),
}

#[derive(PartialEq)]
enum Needs {
    Nothing,
    Root,
}

const TESTS: &[Test] = &[
    Test { name: "attacks_work_where_there_is_no_cage", needs: Needs::Root, run: walls::attacks_work_where_there_is_no_cage },
    Test { name: "a_captured_front_end_started_by_root_fails_at_every_attack", needs: Needs::Root, run: walls::front_from_root },
    Test { name: "a_captured_front_end_started_by_systemd_fails_at_every_attack", needs: Needs::Root, run: walls::front_from_systemd },
    Test { name: "a_captured_front_end_without_chroot_fails_at_every_attack", needs: Needs::Nothing, run: walls::front_without_chroot },
    Test { name: "a_captured_front_end_on_a_kernel_without_landlock_fails_too", needs: Needs::Root, run: walls::front_without_landlock },
    Test { name: "a_captured_key_process_fails_at_every_attack", needs: Needs::Root, run: walls::keys_from_root },
    Test { name: "a_captured_key_process_of_an_ordinary_user_fails_at_every_attack", needs: Needs::Nothing, run: walls::keys_as_user },
    Test { name: "a_captured_queue_fails_at_every_attack", needs: Needs::Root, run: walls::queue_from_root },
    Test { name: "a_captured_queue_of_an_ordinary_user_fails_at_every_attack", needs: Needs::Nothing, run: walls::queue_as_user },
    Test { name: "a_cage_is_refused_to_a_process_with_threads", needs: Needs::Nothing, run: walls::threads_are_refused },
    Test { name: "a_front_end_with_an_open_directory_is_refused", needs: Needs::Nothing, run: walls::open_directories_are_refused },
    Test { name: "a_required_cage_that_is_incomplete_is_refused", needs: Needs::Nothing, run: walls::incomplete_is_refused },
    Test { name: "front_and_keys_do_their_work_in_their_cages", needs: Needs::Root, run: work::front_and_keys },
    Test { name: "a_changed_certificate_is_taken_on_sighup_and_a_bad_one_is_not", needs: Needs::Nothing, run: work::sighup },
    Test { name: "a_stopped_key_process_does_not_freeze_sessions", needs: Needs::Nothing, run: work::stopped_keys },
    Test { name: "a_killed_key_process_is_found_again", needs: Needs::Nothing, run: work::killed_keys },
    Test { name: "the_key_process_takes_its_socket_from_systemd_and_reports", needs: Needs::Root, run: work::keys_from_systemd },
    Test { name: "the_key_process_refuses_a_loose_directory_and_names_the_repair", needs: Needs::Nothing, run: work::loose_directory },
    Test { name: "a_captured_reader_of_files_fails_at_every_attack_but_to_read", needs: Needs::Root, run: walls::files_from_root },
    Test { name: "a_captured_reader_of_files_of_an_ordinary_user_fails_too", needs: Needs::Nothing, run: walls::files_as_user },
    Test { name: "the_queue_does_its_work_in_its_cage", needs: Needs::Nothing, run: work::queue },
];

fn main() -> ExitCode {
    if let Some(role) = std::env::var_os("CAGE_TEST_ROLE") {
        return roles::play(&role.to_string_lossy());
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for test in TESTS {
            println!("{}: test", test.name);
        }
        return ExitCode::SUCCESS;
    }
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |test: &&Test| {
        filters.is_empty() || filters.iter().any(|filter| if exact { test.name == *filter } else { test.name.contains(*filter) })
    };
    let is_root = nix::unistd::geteuid().is_root();
    let mut failed = Vec::new();
    let (mut passed, mut skipped) = (0, 0);
    for test in TESTS.iter().filter(chosen) {
        if test.needs == Needs::Root && !is_root {
            println!("SKIPPED (needs root): {}", test.name);
            skipped += 1;
            continue;
        }
        println!("test {} ...", test.name);
        match std::panic::catch_unwind(test.run) {
            Ok(()) => {
                println!("test {} ... ok", test.name);
                passed += 1;
            }
            Err(_) => {
                println!("test {} ... FAILED", test.name);
                failed.push(test.name);
            }
        }
    }
    walls::clean_up();
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {} failed; {skipped} ignored; 0 measured; 0 filtered out", failed.len());
    for name in &failed {
        println!("    {name}");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
