//! The conformance suite for this store, and what only a store of rows and files can suffer.

use std::path::PathBuf;

use bytes::Bytes;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::delivery::job::RecipientNo;
use crate::queue::conformance::{Harness, NOW, accept, account, conformance, large, new_message, octets};
use crate::queue::store::{Draft as _, new_body};

struct Place {
    place: tempfile::TempDir,
}

impl Harness for Place {
    type Store = SqliteStore;

    fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.spool()).unwrap()
    }
}

impl Place {
    fn spool(&self) -> PathBuf {
        self.place.path().join("spool")
    }

    /// Changes the database behind the store's back.
    fn tamper(&self, sql: &str) {
        Connection::open(self.spool().join("queue.db")).unwrap().execute_batch(sql).unwrap();
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.spool().join(directory)).unwrap();
        let mut names: Vec<_> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

conformance!(Place);

fn everything() -> DueQuery {
    DueQuery::new(NOW, std::time::Duration::from_secs(18_000), 100)
}

#[tokio::test]
async fn a_damaged_row_is_set_aside_and_the_others_go_on() {
    let damages = [
        ("UPDATE messages SET head = substr(head, 1, length(head) - 1)", "head"),
        ("UPDATE messages SET progress = x'0102'", "deliveries"),
        ("UPDATE bodies SET bytes = CAST(x'00' || substr(bytes, 2) AS BLOB)", "body does not match"),
        ("UPDATE messages SET size = size + 1", "body does not match"),
        ("DELETE FROM bodies", "body is missing"),
    ];
    for (damage, reason) in damages {
        let place = Place::new();
        let store = place.open();
        let hurt = accept(&store, b"precious", Claim::Leave).await.id;
        let sound = accept(&store, b"sound", Claim::Leave).await.id;
        drop(store);
        place.tamper(&format!("{damage} WHERE id = {}", hurt.number()));

        let store = place.open();
        let due = store.claim_due(everything()).await.unwrap();

        assert_eq!(due.messages.iter().map(|it| it.id).collect::<Vec<_>>(), [sound], "{damage}");
        assert!(store.inspect(hurt).await.unwrap().is_none(), "{damage}");
        let why = std::fs::read_to_string(place.spool().join(format!("damaged/{hurt}.why"))).unwrap();
        assert!(why.contains(reason), "{why}");
        assert!(place.names("damaged").contains(&format!("{hurt}.head")), "{damage}");
    }
}

#[tokio::test]
async fn a_listing_sets_a_damaged_row_aside_as_well() {
    let place = Place::new();
    let store = place.open();
    let hurt = accept(&store, b"precious", Claim::Leave).await.id;
    store.alter(vec![hurt], Change::Hold).await.unwrap();
    drop(store);
    place.tamper("UPDATE messages SET head = x'00'");

    let store = place.open();

    assert!(store.page(None, 10).await.unwrap().is_empty());
    assert_eq!(std::fs::read(place.spool().join(format!("damaged/{hurt}.body"))).unwrap(), b"precious");
}

#[tokio::test]
async fn every_flipped_octet_and_every_cut_of_a_body_file_is_noticed() {
    let place = Place::new();
    let store = place.open();
    let body = large();
    let id = accept(&store, &body, Claim::Leave).await.id;
    let path = place.spool().join("bodies").join(id.to_string());
    let (size, sum) = (body.len() as u64, crc32fast::hash(&body));

    for at in (0..body.len()).step_by(1009) {
        let mut flipped = body.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        assert_ne!(sum_of(&store.spool.open_body(id, size).unwrap()).unwrap(), sum, "octet {at}");
        std::fs::write(&path, &body[..at]).unwrap();
        assert!(store.spool.open_body(id, size).is_err(), "cut at {at}");
    }
}

#[tokio::test]
async fn a_damaged_body_file_is_set_aside_with_its_message() {
    let place = Place::new();
    let store = place.open();
    let hurt = accept(&store, &large(), Claim::Leave).await.id;
    let path = place.spool().join("bodies").join(hurt.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70_000] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let due = store.claim_due(everything()).await.unwrap();

    assert!(due.messages.is_empty());
    assert!(place.names("bodies").is_empty());
    assert_eq!(std::fs::read(place.spool().join(format!("damaged/{hurt}.body"))).unwrap(), bytes);
}

#[tokio::test]
async fn debris_of_an_abrupt_end_does_not_keep_the_store_from_starting() {
    let place = Place::new();
    let store = place.open();
    let id = accept(&store, &large(), Claim::Leave).await.id;
    drop(store);
    let bodies = place.spool().join("bodies");
    std::fs::write(bodies.join("new-7"), "half").unwrap();
    std::fs::write(bodies.join("0000000000001"), "never acknowledged").unwrap();
    std::fs::write(bodies.join("0000000000002"), "finished").unwrap();
    std::fs::write(bodies.join("core"), "what is this").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", bodies.join("0000000000003")).unwrap();
    std::fs::create_dir(bodies.join("new-8")).unwrap();
    place.tamper("INSERT INTO doomed VALUES (2)");

    let store = place.open();

    assert_eq!(place.names("bodies"), [id.to_string()]);
    assert_eq!(place.names("damaged"), ["0000000000001.stray", "0000000000003.stray", "core.stray", "new-8.stray"]);
    assert_eq!(octets(&store.claim_due(everything()).await.unwrap().messages[0]), large());
}

#[tokio::test]
async fn the_file_of_a_finished_message_is_removed_and_its_note_too() {
    let place = Place::new();
    let store = place.open();
    let id = accept(&store, &large(), Claim::Mine).await.id;
    store.settle(Settlement { id, then: Then::Finished, report: None }).await.unwrap();
    accept(&store, b"next", Claim::Leave).await;
    drop(store);
    assert!(place.names("bodies").is_empty());

    let db = Connection::open(place.spool().join("queue.db")).unwrap();

    assert_eq!(db.query_row("SELECT count(*) FROM doomed", [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

/// Lets the database grow to `pages` and no further, which is what a full disk does to it.
fn bounded(place: &Place, pages: u32) -> SqliteStore {
    counted(place, pages).0
}

/// The same, and how many warnings its thread has written.
fn counted(place: &Place, pages: u32) -> (SqliteStore, Arc<AtomicU64>) {
    let spool = Arc::new(Spool::open(&place.spool()).unwrap());
    let opened = schema::open(&place.spool().join("queue.db"), &mut Reserve::none()).unwrap();
    opened.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    let later = Arc::new(Later::default());
    let writer = Writer::new(opened.connection, Arc::clone(&spool), Arc::clone(&later), Arc::default(), Reserve::none()).unwrap();
    let (ops, asked) = mpsc::channel();
    let warnings = Arc::new(AtomicU64::new(0));
    let log = tracing_subscriber::registry().with(Warnings(Arc::clone(&warnings)));
    let thread = std::thread::spawn(move || tracing::subscriber::with_default(log, || writer.run(&asked)));
    let store = SqliteStore {
        spool,
        ops: Some(ops),
        later,
        thread: Some(thread),
        last_id: AtomicU64::new(0),
        free: Mutex::default(),
        spare: Arc::default(),
    };
    (store, warnings)
}

struct Warnings(Arc<AtomicU64>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if *event.metadata().level() == tracing::Level::WARN {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn settlements_that_find_no_room_cost_no_more_when_the_store_is_asked_often() {
    let place = Place::new();
    let (store, warnings) = counted(&place, 60);
    let mut kept = Vec::new();
    while let Ok(message) = accept_large(&store).await {
        kept.push(message.id);
    }
    let report = || Some((new_message(&["alice@a.example"]), NewBody::Small(Bytes::from(vec![b'r'; 60_000]))));
    let settle = |id| store.settle(Settlement { id, then: Then::Finished, report: report() });
    let before = Instant::now();

    let asks = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..500 {
            assert_eq!(store.page(None, 100).await.unwrap().len(), kept.len());
        }
    };
    let owed = async { tokio::join!(settle(kept[0]), settle(kept[1]), settle(kept[2])) };
    tokio::select! {
        _ = owed => panic!("there is no room"),
        () = asks => {}
    }

    let (lines, seconds) = (warnings.load(Ordering::Relaxed), before.elapsed().as_secs());
    assert!(lines >= 1 && lines <= seconds + 3, "{lines} lines in {seconds} seconds");
}

async fn accept_large(store: &SqliteStore) -> Result<Message, StoreError> {
    store.accept(new_message(&["b@b.example"]), NewBody::Small(Bytes::from(vec![b'x'; 20_000])), Claim::Mine).await
}

#[tokio::test]
async fn a_full_disk_refuses_the_new_and_keeps_the_accepted() {
    let place = Place::new();
    let store = bounded(&place, 60);
    let mut kept = Vec::new();
    let error = loop {
        match accept_large(&store).await {
            Ok(message) => kept.push(message.id),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full), "{error}");
    assert!(kept.len() > 3);

    // A report that finds no room waits together with its settlement, and neither is lost.
    let (first, second) = (kept[0], kept[1]);
    let report = Some((new_message(&["alice@a.example"]), NewBody::Small(Bytes::from(vec![b'r'; 60_000]))));
    let owed = store.settle(Settlement { id: first, then: Then::Finished, report });
    let freed = async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        for id in kept.iter().skip(1) {
            store.settle(Settlement { id: *id, then: Then::Finished, report: None }).await.unwrap();
        }
    };
    let (report, ()) = tokio::join!(owed, freed);

    let report = report.unwrap().unwrap();
    let left: Vec<_> = store.page(None, 100).await.unwrap().iter().map(|it| it.id).collect();
    assert_eq!(left, [report], "{second} and the others are gone");
}

#[tokio::test]
async fn a_draft_whose_message_is_refused_leaves_no_file() {
    let place = Place::new();
    let store = bounded(&place, 8);
    let mut full = store.draft().await.unwrap();
    full.write(Bytes::from(large())).await.unwrap();
    let mut wide = new_message(&["b@b.example"]);
    wide.envelope.rest = vec![wide.envelope.first.clone(); 2000];

    let error = store.accept(wide, NewBody::Large(full), Claim::Mine).await.unwrap_err();

    assert!(matches!(error, StoreError::Full), "{error}");
    assert!(place.names("bodies").is_empty());
}

#[tokio::test]
async fn whoever_goes_away_before_the_answer_holds_no_claim() {
    let place = Place::new();
    let store = place.open();
    let body = new_body(&store, Bytes::from_static(b"x")).await.unwrap();
    {
        let accepting = store.accept(new_message(&["b@b.example"]), body, Claim::Mine);
        let mut accepting = std::pin::pin!(accepting);
        let accepting = accepting.as_mut();
        let mut once = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(accepting.poll(&mut once).is_pending(), "the question is asked and nobody waits for the answer");
    }
    let due = store.claim_due(everything()).await.unwrap();

    assert_eq!(due.messages.len(), 1);
}

#[tokio::test]
async fn little_room_on_the_disk_refuses_before_there_is_none() {
    let store = Place::new().open();
    let free = |octets| *store.free.lock().unwrap() = Some((Instant::now() + Duration::from_secs(60), octets));

    free(LOW_WATER + 1000);
    assert!(store.room_for(1000).is_ok());
    assert!(matches!(store.room_for(1001), Err(StoreError::Full)));
    assert!(matches!(store.room_for(u64::MAX), Err(StoreError::Full)));
    free(0);
    assert!(matches!(store.room_for(0), Err(StoreError::Full)));
}

#[tokio::test]
async fn what_finished_messages_leave_in_the_database_counts_as_room() {
    let place = Place::new();
    let store = place.open();
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(accept(&store, &[b'x'; 20_000], Claim::Mine).await.id);
    }
    assert_eq!(store.spare.load(Ordering::Relaxed), 0);
    for id in ids {
        store.settle(Settlement { id, then: Then::Finished, report: None }).await.unwrap();
    }
    let spare = store.spare.load(Ordering::Relaxed);

    assert!(spare > 1_900_000, "{spare}");
    assert!(!has_room(LOW_WATER - spare, 0, 1000));
    assert!(has_room(LOW_WATER - spare + 1000, spare, 1000));
    assert!(!has_room(999, u64::MAX, 1000), "a large body is a file of its own");
    drop(store);
    assert_eq!(place.open().spare.load(Ordering::Relaxed), spare, "and at the next start");
}

#[tokio::test]
async fn what_is_written_for_a_delivered_recipient_does_not_grow_with_the_message() {
    let place = Place::new();
    let store = place.open();
    let names: Vec<_> = (0..1000).map(|number| format!("r{number}@d{number}.example")).collect();
    let new = new_message(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let id = store.accept(new, NewBody::Small(Bytes::from_static(b"x")), Claim::Mine).await.unwrap().id;
    let owed = Some(account(&"250 2.0.0 queued ".repeat(15)));

    for no in 0..1000 {
        store.note(id, &[Noted { no: RecipientNo(no), owed: owed.clone() }]);
        store.page(None, 1).await.unwrap(); // it is answered after what was asked for before
    }

    let log = std::fs::metadata(place.spool().join("queue.db-wal")).unwrap().len();
    assert!(log < 24 << 20, "{log} octets");
    store.settle(Settlement { id, then: Then::Finished, report: None }).await.unwrap();
    drop(store);
    let database = Connection::open(place.spool().join("queue.db")).unwrap();
    let left: i64 = database.query_row("SELECT count(*) FROM noted", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_damaged_note_of_a_delivery_sets_the_message_aside() {
    let place = Place::new();
    let store = place.open();
    let id = accept(&store, b"x", Claim::Mine).await.id;
    store.note(id, &[Noted { no: RecipientNo(1), owed: None }]);
    drop(store);
    place.tamper("UPDATE noted SET bytes = substr(bytes, 2)");

    let store = place.open();

    assert!(store.claim_due(everything()).await.unwrap().messages.is_empty());
    assert!(place.names("damaged").contains(&format!("{id}.noted")));
}

#[tokio::test]
async fn a_delivery_noted_after_a_message_was_deleted_leaves_nothing() {
    let place = Place::new();
    let store = place.open();
    let id = accept(&store, b"x", Claim::Mine).await.id;
    store.alter(vec![id], Change::Delete).await.unwrap();
    store.note(id, &[Noted { no: RecipientNo(1), owed: None }]);
    drop(store);

    let database = Connection::open(place.spool().join("queue.db")).unwrap();
    let left: i64 = database.query_row("SELECT count(*) FROM noted", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

/// A crash before a settlement is durable repeats the delivery, so a settlement waits for nothing but the disk.
#[tokio::test]
async fn settlements_take_no_longer_than_acceptances() {
    let store = Place::new().open();
    let (mut ids, start) = (Vec::new(), Instant::now());
    for _ in 0..200 {
        ids.push(accept(&store, b"x", Claim::Mine).await.id);
    }
    let accepting = start.elapsed();

    let start = Instant::now();
    for id in ids {
        store.settle(Settlement { id, then: Then::Finished, report: None }).await.unwrap();
    }

    let settling = start.elapsed();
    assert!(settling < accepting * 2 + Duration::from_millis(500), "{settling:?} after {accepting:?}");
}

#[tokio::test]
async fn what_is_read_of_the_newest_messages_at_the_start_does_not_grow_with_their_recipients() {
    let place = Place::new();
    let store = place.open();
    let names: Vec<_> = (0..2000).map(|number| format!("somebody-{number}@b.example")).collect();
    let token = Token::fresh();
    let wide = NewMessage { token: Some(token), ..new_message(&names.iter().map(String::as_str).collect::<Vec<_>>()) };
    let id = store.accept(wide, NewBody::Small(Bytes::from_static(b"x")), Claim::Leave).await.unwrap().id;

    let read = store.asked(|answer| Op::Read(Read::Recent { limit: 100, answer })).await.unwrap();

    assert!(read.iter().all(|(_, octets)| octets.len() <= 32), "{:?}", read.iter().map(|it| it.1.len()).collect::<Vec<_>>());
    assert_eq!(store.recent(100).await.unwrap(), [(token, id)]);
}
