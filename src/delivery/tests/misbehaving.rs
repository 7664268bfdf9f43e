//! Servers whose replies are odd, misplaced, endless or slow.

use super::*;

#[tokio::test]
async fn a_server_that_stops_reading_after_it_refused_a_content_is_heard() {
    let manner = |_: At, heard: &str| match heard {
        "DATA" => Does::Says("354 go\r\n552 5.3.4 too much\r\n".to_owned()),
        _ => Does::Right,
    };
    let fake = Fake::start(Skills { stops_reading: true, ..Skills::default() }, manner).await;
    let mut job = samples::job("s@a.example", &["x@b.example"]);
    job.content.body = Body::Memory(Bytes::from(b"0123456789abcdef0123456789abcd\r\n".repeat(1024 * 1024)));
    let mut settings = to_one(fake.address);
    settings.timeouts.block = Duration::from_secs(1);

    let found = in_order(outcomes_of(settings, vec![job]).await);

    assert_eq!(brief(&found), ["F5.3.4"]);
}

#[tokio::test]
async fn a_server_with_odd_lines_before_its_replies_gets_one_command_at_a_time() {
    let manner = |_: At, heard: &str| match heard {
        "banner" => says("hello\r\n220 fake.example"),
        "content" => says("thank you\r\n250 2.0.0 queued"),
        _ if heard.starts_with("RCPT TO:<x") => says("let me see\r\n550 5.1.1 no"),
        _ => Does::Right,
    };
    let fake = Fake::start(Skills::with(&["PIPELINING"]), manner).await;
    let settings = Settings { per_destination: 1, ..to_one(fake.address) };

    let found = brief(&in_order(outcomes_of(settings, numbered(5)).await));

    assert!(found.chunks(2).all(|pair| pair == ["F5.1.1", "D2.0.0"]), "{found:?}");
    assert_eq!(fake.connections(), 1);
}

#[tokio::test]
async fn odd_lines_void_no_reply_and_contradictions_defer() {
    let cases = [
        ("MAIL", "550-5.7.1 a\r\n554 5.7.1 b", "F5.7.1"),
        ("RCPT", "550-5.1.1 a\r\n\r\n550 b", "F5.1.1"),
        ("RCPT", "550-5.1.1 a\r\nno code\r\n550 b", "F5.1.1"),
        ("RCPT", "550\t5.1.1 a", "F5.1.1"),
        ("RCPT", "550", "F5.0.0"),
        ("RCPT", "550 2.1.0 odd", "F5.0.0"),
        ("DATA", "452-4.3.1 a\r\n451 b", "T4.3.1"),
        ("content", "554-5.6.0 a\r\nhttp://x.example/\r\n\r\n554 b", "F5.6.0"),
        ("content", "250-2.0.0 a\r\nb\r\n250 c", "D2.0.0"),
        ("content", "250 2.0.0 a\r\n", "D2.0.0"),
        ("EHLO", "250-fake.example\r\n\r\nhello\r\n250\tDSN", "D2.0.0"),
        ("banner", "hello\r\n220-a\r\n\r\n220 b", "D2.0.0"),
        ("MAIL", "550-5.7.1 a\r\n250 b", "T4.5.0"),
        ("RCPT", "550-5.7.1 a\r\n250 b", "T4.5.0"),
        ("RCPT", "250-2.1.5 a\r\n550 b", "T4.5.0"),
        ("DATA", "354-a\r\n554 b", "T4.5.0"),
        ("content", "250-2.0.0 a\r\n550 5.0.0 b", "T4.5.0"),
        ("banner", "220-a\r\n554 b", "T4.5.0"),
    ];
    for offers in [&ALL[..], &[]] {
        for (command, reply, wanted) in cases {
            let fake =
                Fake::start(Skills::with(offers), move |_, heard| if heard.starts_with(command) { says(reply) } else { Does::Right }).await;

            let found = outcomes(to_one(fake.address), 1).await;

            assert_eq!(brief(&found), [wanted], "{command} {reply} {offers:?} {found:?}");
        }
    }
}

#[tokio::test]
async fn a_positive_code_where_none_is_due_is_a_protocol_error_and_never_a_status_of_success() {
    for offers in [&ALL[..], &[]] {
        for (command, reply) in [
            ("EHLO", "354 2.0.0 x"),
            ("EHLO", "220 2.0.0 x"),
            ("MAIL", "354 2.0.0 x"),
            ("MAIL", "220 2.0.0 x"),
            ("RCPT", "354 2.0.0 x"),
            ("DATA", "250 2.0.0 x"),
            ("DATA", "235 2.0.0 x"),
            ("content", "354 2.0.0 x"),
            ("content", "221 2.0.0 x"),
        ] {
            let fake =
                Fake::start(Skills::with(offers), move |_, heard| if heard.starts_with(command) { says(reply) } else { Does::Right }).await;

            let found = outcomes(to_one(fake.address), 2).await;

            assert_eq!(brief(&found), ["T4.5.0", "T4.5.0"], "{command} {reply} {offers:?}");
        }
    }
}

#[tokio::test]
async fn a_line_without_a_code_among_pipelined_replies_shifts_nobodys_answer() {
    // Were the line skipped, the refusal of the second recipient would be the fate of the first.
    let manner = |_: At, heard: &str| match heard {
        "RCPT TO:<r0@b.example>" => says("what?"),
        "RCPT TO:<r1@b.example>" => says("550 5.1.1 no"),
        _ => Does::Right,
    };
    let fake = Fake::start(Skills::with(&ALL), manner).await;

    let found = outcomes(to_one(fake.address), 2).await;

    assert!(matches!(found[0], Outcome::Deferred(_)), "{found:?}");
    assert!(!matches!(found[1], Outcome::Delivered(_)));
}

#[tokio::test]
async fn a_server_that_drips_a_reply_is_left_when_the_time_for_the_whole_reply_is_over() {
    for stage in ["banner", "EHLO", "MAIL", "content"] {
        for drip in ["2", "250-x\r\n", "\r\n", "x\r\n", "250-x"] {
            let manner = move |_: At, heard: &str| if heard.starts_with(stage) { Does::Drips(drip.to_owned()) } else { Does::Right };
            let fake = Fake::start(Skills::with(&ALL), manner).await;
            let settings = Settings { timeouts: patience(Duration::from_millis(400)), ..to_one(fake.address) };
            let begun = Instant::now();

            let found = outcomes(settings, 1).await;

            assert!(matches!(found[0], Outcome::Deferred(_)), "{stage} {drip:?} {found:?}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{stage} {drip:?}");
        }
    }
}

#[tokio::test]
async fn a_server_slow_at_each_step_is_left_when_the_time_for_all_is_over() {
    // Each single reply is in time by far.
    let slow = |_: At, heard: &str| match heard.starts_with("RCPT") {
        true => Does::Waits(Duration::from_millis(100)),
        false => Does::Right,
    };
    for offers in [&ALL[..], &[]] {
        let fake = Fake::start(Skills::with(offers), slow).await;
        let mut settings = to_one(fake.address);
        settings.timeouts.dialogue = Duration::from_millis(1500);
        let begun = Instant::now();

        let found = outcomes(settings, 60).await;

        // Without pipelining, those accepted in time get the message, and the others follow.
        let delivered = found.iter().filter(|outcome| matches!(outcome, Outcome::Delivered(_))).count();
        assert!(offers.len() > 1 || delivered == 60, "{delivered}");
        assert!(found.iter().all(|outcome| matches!(outcome, Outcome::Delivered(_) | Outcome::Deferred(_))), "{found:?}");
        assert!(begun.elapsed() < Duration::from_secs(50));
    }
    let opening = Fake::start(Skills::with(&ALL), |_, heard| match heard {
        "banner" => Does::Waits(Duration::from_millis(700)),
        _ if heard.starts_with("EHLO") => Does::Waits(Duration::from_millis(700)),
        _ => Does::Right,
    })
    .await;
    let mut settings = to_one(opening.address);
    settings.timeouts.opening = Duration::from_secs(1);

    let found = outcomes(settings, 1).await;

    assert_eq!(brief(&found), ["T4.4.1"]);
    assert!(account(&found[0]).diagnostic.contains("the start of the connection"), "{found:?}");
}

#[tokio::test]
async fn a_server_that_reads_the_content_too_slowly_is_left() {
    let manner = |_: At, heard: &str| if heard == "DATA" { Does::ReadsSlowly } else { Does::Right };
    let fake = Fake::start(Skills::with(&["8BITMIME"]), manner).await;
    let mut job = samples::job("s@a.example", &["x@b.example"]);
    // More than the buffers of the kernel take.
    let size = 24 * 1024 * 1024;
    job.content.body = Body::Memory(Bytes::from(b"0123456789abcdef0123456789abcd\r\n".repeat(size / 32)));
    let mut settings = to_one(fake.address);
    // So that only the limit for the whole content can end it, which is shortened by the rest of
    // the patience.
    settings.timeouts.block = Duration::from_secs(2);
    let begun = Instant::now();

    let found = in_order(outcomes_of(settings, vec![job]).await);

    assert!(matches!(found[0], Outcome::Deferred(_)), "{found:?}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(fake.messages().is_empty());
}
