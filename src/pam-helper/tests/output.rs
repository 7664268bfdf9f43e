//! What the program prints when it cannot be written.

use std::fs::File;
use std::process::{Command, Stdio};

#[test]
fn output_that_is_lost_is_no_success_and_no_panic() {
    for argument in ["--version", "--help"] {
        let helper = |out: Stdio| {
            Command::new(env!("CARGO_BIN_EXE_pamrelay-auth")).arg(argument).stdout(out).stderr(Stdio::piped()).spawn().unwrap()
        };
        let (reader, unread) = std::io::pipe().unwrap();
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();

        for (out, status) in [(unread.into(), 141), (full.into(), 74)] {
            let output = helper(out).wait_with_output().unwrap();

            assert_eq!(output.status.code(), Some(status), "{argument}");
            assert!(output.stderr.is_empty(), "{argument}");
        }
    }
}
