//! Messages with many recipients: what they may cost.

use super::*;

fn to_many(recipients: usize) -> Opening {
    let names: Vec<_> = (0..recipients).map(|number| format!("r{number:04}@b.example")).collect();
    Opening { envelope: envelope(&names.iter().map(String::as_str).collect::<Vec<_>>()), ..opening() }
}

fn to_all(recipients: u32, outcome: &Outcome) -> Vec<(u32, Outcome)> {
    (0..recipients).map(|no| (no, outcome.clone())).collect()
}

#[tokio::test]
async fn messages_with_many_recipients_fill_the_room_in_memory_sooner_than_others() {
    let mut role = Role::with(ActiveLimits { fresh: 8, loaded: 8 }).await;
    let pool = role.pool();
    for _ in 0..16 {
        let Answer::Accepted(_) = send(&pool, &to_many(1000), b"x").await.unwrap() else { panic!("it is not accepted") };
    }

    let mut begun = Vec::new();
    for _ in 0..4 {
        begun.push(role.job().await.id);
    }
    role.no_job().await;

    for id in begun {
        role.say(id, &to_all(1000, &delivered())).await;
    }
    role.job().await;
    role.job().await;
    role.no_job().await;
}

#[tokio::test]
async fn long_replies_about_many_recipients_are_kept_short() {
    let mut role = Role::start().await;
    let Answer::Accepted(id) = send(&role.pool(), &to_many(1000), b"x").await.unwrap() else { panic!("it is not accepted") };
    let words = format!("451 4.3.0 {}", "later ".repeat(330));
    assert_eq!(role.job().await.id, id);

    role.say(id, &to_all(1000, &Outcome::Deferred(account(&words)))).await;

    let told = async {
        loop {
            let shown = role.ask(move |client| client.show(&id.to_string()).unwrap()).await;
            let texts: Vec<_> = shown.entry.recipients.iter().filter_map(|it| it.reason.clone()).collect();
            if !texts.is_empty() {
                return texts;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let texts = timeout(SOON, told).await.expect("the outcomes are recorded");
    assert_eq!(texts.len(), 1000);
    assert!(texts.iter().all(|it| it.len() <= 262 && it.starts_with("451 4.3.0 later") && it.ends_with("...")));
}
