//! A report that cannot be delivered: counted, told to the postmaster, and no more after that.

use super::*;

impl Role {
    async fn with_postmaster() -> Self {
        let mut role = Self::start().await;
        role.end().await;
        role.postmaster = Some(crate::delivery::samples::mailbox("postmaster@site.example"));
        role.resume().await;
        role
    }

    async fn undelivered(&self, wanted: u64) {
        let counted = async {
            while self.ask(|client| client.status().unwrap().undelivered_reports).await != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, counted).await.expect("the reports are counted");
    }
}

#[tokio::test]
async fn a_report_that_cannot_be_delivered_is_counted_and_told_to_the_postmaster_once() {
    let mut role = Role::with_postmaster().await;
    let id = accepted(&role.pool(), "Subject: x\r\n\r\nüber\r\n".as_bytes()).await;
    role.job().await;
    role.undelivered(0).await;
    role.say(id, &[(0, failed()), (1, delivered())]).await;
    let report = role.job().await;
    assert_eq!(report.recipients[0].1.mailbox.to_string(), "alice@a.example");

    role.say(report.id, &[(0, failed())]).await;

    let notice = role.job().await;
    assert_eq!((&notice.sender, notice.recipients[0].1.mailbox.to_string()), (&ReversePath::Null, "postmaster@site.example".into()));
    let text = String::from_utf8(body_of(&notice)).unwrap();
    assert!(text.contains(&format!("the number {}", report.id)) || text.contains(&report.id.to_string()), "{text}");
    assert!(text.contains("Subject: Your message could not be delivered"), "the report is in it: {text}");
    role.undelivered(1).await;

    role.say(notice.id, &[(0, failed())]).await;

    role.empties().await;
    role.no_job().await;
    role.undelivered(2).await;
}

#[tokio::test]
async fn without_a_postmaster_it_is_counted() {
    let mut role = Role::start().await;
    let id = accepted(&role.pool(), b"x").await;
    role.job().await;
    role.say(id, &[(0, failed()), (1, failed())]).await;
    let report = role.job().await;

    role.say(report.id, &[(0, failed())]).await;

    role.empties().await;
    role.undelivered(1).await;
}
