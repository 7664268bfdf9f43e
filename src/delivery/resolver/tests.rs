//! Against name servers on the loopback interface, which answer as each test says.

use std::sync::atomic::Ordering;

use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA};

use super::fake::{NameServer as Fake, Says, name, reply, resolver};
use super::*;

fn a(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

#[tokio::test]
async fn asks_for_dnssec_and_keeps_the_ad_bit_of_a_trusted_server() {
    let fake = Fake::udp(|question| {
        assert!(question.edns.as_ref().unwrap().flags().dnssec_ok && question.metadata.recursion_desired);
        let mut message = reply(question, ResponseCode::NoError, vec![("x.example.", 60, a(1))]);
        message.metadata.authentic_data = true;
        Says::This(message)
    })
    .await;

    let near = fake.resolver().lookup("X.example.", RecordType::A).await.unwrap();
    let far = NameServers { trust: TrustAd::Untrusted, ..NameServers::configured(vec![fake.address]) };
    let far = Resolver::new(far, Hosts::default());
    let far = far.lookup("x.example", RecordType::A).await.unwrap();

    assert_eq!((&near.records[..], near.authentic), (&[a(1)][..], true));
    assert!(!far.authentic);
}

#[tokio::test]
async fn takes_a_truncated_answer_again_over_tcp() {
    let cut = |question: &Message| {
        let mut message = reply(question, ResponseCode::NoError, vec![]);
        message.metadata.truncation = true;
        Says::This(message)
    };
    let fake = Fake::start(cut, |question| Says::This(reply(question, ResponseCode::NoError, vec![("x.example.", 60, a(2))]))).await;

    assert_eq!(fake.resolver().lookup("x.example", RecordType::A).await.unwrap().records, [a(2)]);
}

#[tokio::test]
async fn a_server_that_only_refers_to_others_says_nothing_about_a_name() {
    let refers = || {
        Fake::udp(|question| {
            let mut message = reply(question, ResponseCode::NoError, vec![]);
            message.add_authority(Record::from_rdata(name("example."), 60, RData::NS(NS(name("ns.example.")))));
            Says::This(message)
        })
    };
    let (first, second) = (refers().await, refers().await);
    let knows = Fake::udp(|question| Says::This(reply(question, ResponseCode::NoError, vec![("x.example.", 60, a(4))]))).await;

    let alone = resolver(vec![first.address]).lookup("x.example", RecordType::A).await;
    let asked = resolver(vec![second.address, knows.address]).lookup("x.example", RecordType::A).await;

    assert!(matches!(alone, Err(Failure::Temporary(_))), "{alone:?}");
    assert_eq!(asked.unwrap().records, [a(4)]);
}

#[tokio::test]
async fn follows_aliases_and_takes_nothing_that_was_not_asked_for() {
    let fake = Fake::udp(|question| {
        let alias = |target| RData::CNAME(CNAME(name(target)));
        let answers = vec![
            ("evil.example.", 60, a(66)),
            ("x.example.", 60, alias("y.example.")),
            ("y.example.", 60, alias("z.example.")),
            ("z.example.", 60, a(3)),
        ];
        Says::This(reply(question, ResponseCode::NoError, answers))
    })
    .await;

    assert_eq!(fake.resolver().lookup("x.example", RecordType::A).await.unwrap().records, [a(3)]);
}

#[tokio::test]
async fn aliases_in_a_circle_are_no_data() {
    let fake = Fake::udp(|question| {
        let answers = vec![("x.example.", 60, RData::CNAME(CNAME(name("x.example."))))];
        Says::This(reply(question, ResponseCode::NoError, answers))
    })
    .await;

    assert_eq!(fake.resolver().lookup("x.example", RecordType::A).await, Err(Failure::NoData));
}

#[tokio::test]
async fn tells_the_three_kinds_of_no_apart() {
    let fake = Fake::udp(|question| {
        let code = match question.queries[0].name().to_ascii().as_str() {
            "none.example." => ResponseCode::NXDomain,
            "empty.example." => ResponseCode::NoError,
            _ => ResponseCode::ServFail,
        };
        Says::This(reply(question, code, vec![]))
    })
    .await;
    let resolver = fake.resolver();

    assert_eq!(resolver.lookup("none.example", RecordType::A).await, Err(Failure::NoName));
    assert_eq!(resolver.lookup("empty.example", RecordType::A).await, Err(Failure::NoData));
    assert!(matches!(resolver.lookup("broken.example", RecordType::A).await, Err(Failure::Temporary(_))));
    assert!(matches!(resolver.lookup(&"x".repeat(70), RecordType::A).await, Err(Failure::NoName)));
}

#[tokio::test]
async fn a_silent_or_broken_server_is_followed_by_the_next() {
    let silent = Fake::udp(|_| Says::Nothing).await;
    let broken = Fake::udp(|question| Says::This(reply(question, ResponseCode::ServFail, vec![]))).await;
    let good = Fake::udp(|question| Says::This(reply(question, ResponseCode::NoError, vec![("x.example.", 60, a(4))]))).await;

    let all = resolver(vec![silent.address, broken.address, good.address]);

    assert_eq!(all.lookup("x.example", RecordType::A).await.unwrap().records, [a(4)]);
    assert!(matches!(silent.resolver().lookup("x.example", RecordType::A).await, Err(Failure::Temporary(_))));
}

#[tokio::test]
async fn takes_no_answer_to_another_question_nor_garbage() {
    let forged: [fn(&Message) -> Says; 4] = [
        |question| {
            let mut message = reply(question, ResponseCode::NoError, vec![("x.example.", 60, a(66))]);
            message.metadata.id ^= 1;
            Says::This(message)
        },
        |question| {
            let mut message = reply(question, ResponseCode::NoError, vec![("x.example.", 60, a(66))]);
            message.queries[0].set_name(name("y.example."));
            Says::This(message)
        },
        |question| Says::This(Box::new(question.clone())),
        |_| Says::Octets(vec![0xff; 40]),
    ];
    for answer in forged {
        let fake = Fake::udp(answer).await;

        assert!(matches!(fake.resolver().lookup("x.example", RecordType::A).await, Err(Failure::Temporary(_))));
    }
}

#[tokio::test]
async fn a_server_older_than_edns_is_asked_without_it() {
    let fake = Fake::udp(|question| match question.edns {
        Some(_) => Says::This(reply(question, ResponseCode::FormErr, vec![])),
        None => Says::This(reply(question, ResponseCode::NoError, vec![("x.example.", 60, a(5))])),
    })
    .await;

    assert_eq!(fake.resolver().lookup("x.example", RecordType::A).await.unwrap().records, [a(5)]);
}

#[tokio::test]
async fn remembers_yes_and_no_as_long_as_the_zone_says_and_failures_not_at_all() {
    let fake = Fake::udp(|question| match question.queries[0].name().to_ascii().as_str() {
        "yes.example." => Says::This(reply(question, ResponseCode::NoError, vec![("yes.example.", 60, a(1))])),
        "brief.example." => Says::This(reply(question, ResponseCode::NoError, vec![("brief.example.", 0, a(1))])),
        "no.example." => {
            let mut message = reply(question, ResponseCode::NXDomain, vec![]);
            let soa = SOA::new(name("example."), name("x.example."), 1, 2, 3, 4, 60);
            message.add_authority(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
            Says::This(message)
        }
        _ => Says::This(reply(question, ResponseCode::Refused, vec![])),
    })
    .await;
    let resolver = fake.resolver();

    for (text, questions) in [("yes.example", 1), ("brief.example", 2), ("no.example", 1), ("fails.example", 4)] {
        let before = fake.asked.load(Ordering::SeqCst);
        for _ in 0..2 {
            let _ = resolver.lookup(text, RecordType::A).await;
        }
        assert_eq!(fake.asked.load(Ordering::SeqCst) - before, questions, "{text}");
    }
}

#[tokio::test]
async fn gives_addresses_from_hosts_literals_and_both_families() {
    let fake = Fake::udp(|question| match question.queries[0].query_type() {
        RecordType::A => Says::This(reply(question, ResponseCode::NoError, vec![("x.example.", 60, a(1))])),
        _ => {
            let v6 = RData::AAAA(AAAA("2001:db8::1".parse().unwrap()));
            Says::This(reply(question, ResponseCode::NoError, vec![("x.example.", 60, v6)]))
        }
    })
    .await;
    let mut resolver = fake.resolver();
    resolver.hosts = Watched::fixed(Hosts::parse("192.0.2.9 h.example"));

    let text = |addresses: Vec<IpAddr>| addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    assert_eq!(text(resolver.addresses("x.example").await.unwrap()), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(text(resolver.addresses("H.example.").await.unwrap()), ["192.0.2.9"]);
    assert_eq!(text(resolver.addresses("2001:db8::7").await.unwrap()), ["2001:db8::7"]);
}

#[tokio::test]
async fn gives_the_exchangers_of_a_domain() {
    let fake = Fake::udp(|question| {
        let mx = |preference, host| RData::MX(MX::new(preference, name(host)));
        let answers = vec![("d.example.", 60, mx(20, "b.example.")), ("d.example.", 60, mx(10, "A.example."))];
        Says::This(reply(question, ResponseCode::NoError, answers))
    })
    .await;

    let exchangers = fake.resolver().exchangers("d.example", "us.example").await.unwrap();
    let found: Vec<_> = exchangers.iter().map(|it| (it.preference, it.name.as_str())).collect();
    assert_eq!(found, [(10, "a.example"), (20, "b.example")]);
}

#[tokio::test]
async fn a_strangers_mx_record_cannot_use_the_hosts_file_nor_be_an_address() {
    let fake = Fake::udp(|question| Says::This(reply(question, ResponseCode::NXDomain, vec![]))).await;
    let mut resolver = fake.resolver();
    resolver.hosts = Watched::fixed(Hosts::parse("192.0.2.9 db.internal"));

    for name in ["db.internal", "localhost", "x.localhost", "127.0.0.1", "10.0.0.1", "0x7f.1", "2130706433", "::1"] {
        assert_eq!(resolver.exchanger_addresses(name).await, Err(Failure::NoName), "{name}");
    }
    for domain in ["localhost", "LOCALHOST.", "a.localhost"] {
        assert!(matches!(resolver.exchangers(domain, "us.example").await, Err(NoExchanger::Loop(_))), "{domain}");
    }
    for domain in ["127.0.0.1", "10", "db.internal"] {
        assert!(matches!(resolver.exchangers(domain, "us.example").await, Err(NoExchanger::NoDomain(_))), "{domain}");
    }
}

#[tokio::test]
async fn trouble_with_dns_says_dns_and_the_question() {
    let fake = Fake::udp(|question| Says::This(reply(question, ResponseCode::ServFail, vec![]))).await;

    let Err(Failure::Temporary(why)) = fake.resolver().lookup("x.example", RecordType::MX).await else { panic!("it failed") };
    let no = fake.resolver().exchangers("x.example", "us.example").await.unwrap_err();

    assert!(why.starts_with("DNS: no answer about x.example MX (127.0.0.1:"), "{why}");
    assert!(no.account().diagnostic.contains("DNS: no answer about x.example MX"), "{no}");
}
