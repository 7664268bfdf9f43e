//! One connection's worth of work for a destination: connect, send what waits, leave when nothing more comes.
//!
//! Whatever the connection does, each parcel taken from the destination is settled, given back, or dropped, which answers
//! for it too.

use tokio::time::{Instant, timeout_at};

use super::client::connection::{Attempt, Closing, Connection, EndOfData, LIFETIME, Lost};
use super::client::transaction::{Fate, Stage, Transaction};
use super::client::trouble::{Kind, Trouble};
use super::destination::Seat;
use super::job::{Account, Origin, Outcome};
use super::maildir;
use super::parcel::{Parcel, Relay};
use super::pool::Slot;
use super::reach::{Reached, Search, Target};

/// Fresh connections that may break under one parcel before it is deferred.
const LOSSES: u32 = 2;

/// How a connection ended.
enum Served {
    /// Nothing more to do.
    Leave,
    /// It is gone; this parcel wants another, better one to another address.
    Broken { held: Option<Parcel> },
}

pub(crate) async fn work(mut seat: Seat) {
    if let Target::Maildir(path) = seat.destination().target.clone() {
        seat.busy();
        while let Some(parcel) = seat.take_or_idle(None) {
            maildir::deliver(parcel, &path, &seat.destination().context.hostname).await;
        }
        seat.leave();
        return;
    }
    let mut held = None;
    loop {
        let context = seat.destination().context.clone();
        let Some(mut slot) = seat.slot(held.as_ref()).await else { return seat.leave() };
        let search = Search::new(&context).run(&seat.destination().target);
        let found = match held.take() {
            None => search.await,
            Some(parcel) => match timeout_at(parcel.deadline(), search).await {
                Ok(found) => {
                    held = Some(parcel);
                    found
                }
                Err(_) => {
                    parcel.settle_late(Relay::NONE).await;
                    if !seat.is_wanted() {
                        return seat.leave();
                    }
                    continue;
                }
            },
        };
        match found {
            Err(account) => {
                for parcel in seat.leave_failed(held.take()) {
                    parcel.settle_all(&account, Relay::NONE).await;
                }
                return;
            }
            Ok(reached) => {
                seat.busy();
                match serve(&mut seat, &mut slot, reached, held.take()).await {
                    Served::Leave => return seat.leave(),
                    Served::Broken { held: None } if !seat.is_wanted() => return seat.leave(),
                    Served::Broken { held: parcel } => held = parcel,
                }
                seat.connecting();
            }
        }
    }
}

async fn serve(seat: &mut Seat, slot: &mut Slot, reached: Reached, held: Option<Parcel>) -> Served {
    let Reached { mut connection, address } = reached;
    let mut next = match held.or_else(|| seat.take_or_idle(Some(slot.user()))) {
        Some(parcel) => Some(connection.begin(parcel).await),
        None => None,
    };
    loop {
        let mut attempt = match next.take() {
            Some(Ok(attempt)) => attempt,
            Some(Err((parcel, trouble))) => {
                parcel.settle_all(&trouble.account(connection.label()), Relay::NONE).await;
                continue;
            }
            None if connection.closing() == Closing::Said || connection.age() >= LIFETIME || !connection.is_quiet() => {
                quit(connection);
                return Served::Broken { held: None };
            }
            None => match next_parcel(seat, &mut connection).await {
                Next::Parcel(parcel) => {
                    next = Some(connection.begin(parcel).await);
                    continue;
                }
                Next::Nothing => {
                    quit(connection);
                    return Served::Leave;
                }
                Next::HungUp(held) => return Served::Broken { held },
            },
        };
        let fresh = connection.is_fresh();
        slot.carries(&attempt.parcel.job().user);
        let deadline = attempt.parcel.deadline();
        let end = timeout_at(deadline, connection.carry(&mut attempt, || seat.more(), &mut next)).await;
        let end = end.unwrap_or_else(|_| Err(cut_short(&attempt.transaction)));
        let Attempt { parcel, transaction, .. } = attempt;
        let asked = Asked::of(&transaction);
        let mut fates = transaction.into_fates();
        if let Err(lost) = &end {
            after_loss(&mut fates, lost, connection.label());
        }
        let whole = parcel.recipients().len();
        asked.again_in_parts(&mut fates);
        let relay = Relay { label: connection.label(), tls: connection.tls() };
        let left = parcel.settle(fates, relay).await;
        let broken = end.is_err() || connection.closing() == Closing::Said;
        if broken && let Some(begun) = next.take() {
            // It only rode behind; nothing has happened to it.
            seat.give_back(begun.map_or_else(|(parcel, _)| parcel, |attempt| attempt.parcel));
        }
        let outages = &seat.destination().context.outages;
        match &end {
            Ok(()) if fresh => outages.forget(address),
            Err(_) if fresh => outages.note_broken(address, std::time::Instant::now()),
            Ok(()) | Err(_) => {}
        }
        match (end, left) {
            (Ok(()), Some(mut parcel)) => {
                if whole > 1 && parcel.recipients().len() == whole {
                    // Too many at once even so: each half by itself.
                    seat.push(parcel.split_off(whole.div_ceil(2)));
                }
                seat.push(parcel);
            }
            (Ok(()), None) => {}
            (Err(_), None) => return Served::Broken { held: None },
            (Err(lost), Some(mut parcel)) => {
                if parcel.is_late(Instant::now()) {
                    parcel.settle_late(relay).await;
                    return Served::Broken { held: None };
                }
                if asked.broke_off_in_the_list(&lost, parcel.recipients().len()) {
                    // Those that were accepted go by themselves, and the others continue where it stopped.
                    seat.push(parcel.split_off(asked.accepted));
                    return Served::Broken { held: Some(parcel) };
                }
                if asked.stage == Stage::Rcpt {
                    parcel.rotate(); // perhaps it is the first one that the server does not stand
                }
                // A connection that served others before may have been ended for its age; a fresh one may not.
                let again = if lost.trouble.kind == Kind::Channel {
                    parcel.may_try_another(address)
                } else {
                    parcel.losses += u32::from(fresh);
                    parcel.losses < LOSSES
                };
                if again {
                    return Served::Broken { held: Some(parcel) };
                }
                parcel.settle_all(&lost.trouble.account(connection.label()), relay).await;
                return Served::Broken { held: None };
            }
        }
    }
}

/// How far the list of recipients came in a transaction.
#[derive(Clone, Copy, Debug)]
struct Asked {
    stage: Stage,
    accepted: usize,
}

impl Asked {
    fn of(transaction: &Transaction) -> Self {
        Self { stage: transaction.stage(), accepted: transaction.accepted() }
    }

    /// The server took several recipients one by one, and then refused them together for their number (X.5.3, RFC 3463 §3.6).
    fn again_in_parts(self, fates: &mut [Fate]) {
        let too_many = |fate: &Fate| match fate {
            Fate::Settled(Outcome::Deferred(account) | Outcome::Failed(account)) => {
                account.origin == Origin::Remote && (account.status.subject, account.status.detail) == (5, 3)
            }
            Fate::Settled(Outcome::Delivered(_)) | Fate::Open | Fate::Accepted | Fate::Again => false,
        };
        if self.accepted > 1 {
            fates.iter_mut().filter(|fate| too_many(fate)).for_each(|fate| *fate = Fate::Again);
        }
    }

    /// Whether a connection ended between two recipients of which the first were accepted: with fewer of them it may hold.
    fn broke_off_in_the_list(self, lost: &Lost, left: usize) -> bool {
        lost.end_of_data == EndOfData::NotSent && self.stage == Stage::Rcpt && self.accepted > 0 && self.accepted < left
    }
}

enum Next {
    Parcel(Parcel),
    /// Long enough.
    Nothing,
    /// The server did not want to wait; what came in the same moment.
    HungUp(Option<Parcel>),
}

async fn next_parcel(seat: &mut Seat, connection: &mut Connection) -> Next {
    let idle = tokio::time::sleep(seat.destination().context.idle);
    tokio::pin!(idle);
    loop {
        if let Some(parcel) = seat.take_or_idle(None) {
            return Next::Parcel(parcel);
        }
        let end = tokio::select! {
            () = seat.news() => continue,
            () = connection.disturbed() => Quiet::Disturbed,
            () = &mut idle => Quiet::Long,
        };
        // What came in this very moment counts on this worker.
        return match (end, seat.take_or_idle(None)) {
            (Quiet::Disturbed, parcel) => Next::HungUp(parcel),
            (Quiet::Long, Some(parcel)) => Next::Parcel(parcel),
            (Quiet::Long, None) => Next::Nothing,
        };
    }
}

/// How a time without work ended.
enum Quiet {
    Disturbed,
    Long,
}

/// Says goodbye beside the work: nobody waits for the server's farewell.
fn quit(connection: Connection) {
    tokio::spawn(connection.quit());
}

/// The message's time was over in the middle of its transaction. Whether the end of the content went out is not known then.
fn cut_short(transaction: &Transaction) -> Lost {
    let end_of_data = match transaction.stage() {
        Stage::Content => EndOfData::Sent,
        Stage::Rset | Stage::Mail | Stage::Rcpt | Stage::Data | Stage::LoneDot | Stage::Done(_) => EndOfData::NotSent,
    };
    Lost { trouble: Trouble::late(), end_of_data }
}

/// Once the end of the data went out only a reply could have said what happened.
fn after_loss(fates: &mut [Fate], lost: &Lost, label: &str) {
    if lost.end_of_data == EndOfData::NotSent {
        return;
    }
    for fate in fates.iter_mut().filter(|fate| **fate == Fate::Accepted) {
        *fate = Fate::Settled(Outcome::Deferred(unknown(&lost.trouble, label)));
    }
}

fn unknown(trouble: &Trouble, label: &str) -> Account {
    let account = trouble.account(label);
    let diagnostic = format!("{}; the message was sent in full, so it may have arrived", account.diagnostic);
    Account { diagnostic, ..account }
}
