//! The kinds of load, and the one line of JSON in which each tells what it saw.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Barrier;
use tokio::task::LocalSet;

use crate::client::{Session, Shared, report};
use crate::sink::now;
use crate::{Failure, Load};

/// How long the sink may stay without a new arrival before the rest counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the sessions of one run have in common while they run.
struct Course {
    started: Cell<Option<Instant>>,
    started_at: Cell<f64>,
    ended: Cell<Option<Instant>>,
    sent: Cell<u64>,
    done: Cell<u64>,
    failed: Cell<u64>,
    times: RefCell<Vec<Duration>>,
    /// When each was done.
    ends: RefCell<Vec<Instant>>,
    /// What was answered to logins, and how often.
    replies: RefCell<BTreeMap<String, u64>>,
}

impl Course {
    fn new() -> Rc<Course> {
        Rc::new(Course {
            started: Cell::new(None),
            started_at: Cell::new(0.0),
            ended: Cell::new(None),
            sent: Cell::new(0),
            done: Cell::new(0),
            failed: Cell::new(0),
            times: RefCell::default(),
            ends: RefCell::default(),
            replies: RefCell::default(),
        })
    }

    fn start(&self) -> Instant {
        if let Some(started) = self.started.get() {
            return started;
        }
        let started = Instant::now();
        self.started.set(Some(started));
        self.started_at.set(now());
        started
    }

    /// Whether more is to be done: until so many were, or until the time is over.
    fn goes_on(&self, load: &Load) -> bool {
        let end = self.start() + Duration::from_secs_f64(load.seconds);
        if load.count > 0 { self.sent.get() < load.count } else { Instant::now() < end }
    }

    fn next_number(&self) -> u64 {
        self.sent.set(self.sent.get() + 1);
        self.sent.get()
    }

    fn finished(&self, began: Instant) {
        self.done.set(self.done.get() + 1);
        self.ended.set(Some(Instant::now()));
        self.times.borrow_mut().push(began.elapsed());
        self.ends.borrow_mut().push(Instant::now());
    }

    fn failed(&self, problem: &Failure) {
        if self.failed.get() < 3 {
            eprintln!("load: {problem}");
        }
        self.failed.set(self.failed.get() + 1);
    }

    fn seconds(&self) -> f64 {
        match (self.started.get(), self.ended.get()) {
            (Some(started), Some(ended)) => ended.duration_since(started).as_secs_f64(),
            _ => 0.0,
        }
    }

    /// So many a second from the first answer on and while there is load: the last ones, which are alone, do not count.
    fn steady_rate(&self, load: &Load) -> f64 {
        let over = self.start() + Duration::from_secs_f64(load.seconds);
        let ends = self.ends.borrow();
        let mut inside = ends.iter().filter(|end| load.count > 0 || **end < over);
        let Some(first) = inside.next() else { return 0.0 };
        let (count, last) = inside.fold((0, first), |(count, _), end| (count + 1, end));
        rate(count, last.duration_since(*first).as_secs_f64())
    }

    fn quantile(&self, part: f64) -> f64 {
        let mut times = self.times.borrow().clone();
        times.sort_unstable();
        let at = ((times.len() as f64 - 1.0).max(0.0) * part) as usize;
        times.get(at).map_or(0.0, Duration::as_secs_f64) * 1000.0
    }
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// Sessions that log in, wait for each other, and then send until the time is over.
pub(crate) async fn steady(load: Load) -> Result<(), Failure> {
    let (shared, course) = (Rc::new(Shared::new(load.clone())?), Course::new());
    let ready = Rc::new(Barrier::new(load.sessions));
    let tasks = LocalSet::new();
    for _ in 0..load.sessions {
        let (shared, course, ready) = (Rc::clone(&shared), Rc::clone(&course), Rc::clone(&ready));
        tasks.spawn_local(async move {
            let session = Session::logged_in(&shared, 0).await;
            ready.wait().await;
            let end = course.start() + Duration::from_secs_f64(shared.load.seconds);
            let outcome = match session {
                Ok(session) => send_until(end, session, &course).await,
                Err(problem) => Err(problem),
            };
            if let Err(problem) = outcome {
                course.failed(&problem);
            }
        });
    }
    tasks.await;
    tell_relayed(&shared.load, &course).await
}

async fn send_until(end: Instant, mut session: Session<'_>, course: &Course) -> Result<(), Failure> {
    while Instant::now() < end {
        let began = Instant::now();
        session.sends(course.next_number()).await?;
        course.finished(began);
    }
    session.quit().await
}

/// One session for each message.
pub(crate) async fn fresh(load: Load) -> Result<(), Failure> {
    let (shared, course) = (Rc::new(Shared::new(load)?), Course::new());
    repeat(&shared, &course, async |shared: &Shared, course: &Course| {
        let (began, number) = (Instant::now(), course.next_number());
        let mut session = Session::logged_in(shared, number).await?;
        session.sends(number).await?;
        session.quit().await?;
        course.finished(began);
        Ok(())
    })
    .await;
    tell_relayed(&shared.load, &course).await
}

/// One session for each right login; wrong ones may be several in a session.
pub(crate) async fn logins(load: Load) -> Result<(), Failure> {
    let (shared, course) = (Rc::new(Shared::new(load)?), Course::new());
    if shared.load.wrong {
        repeat(&shared, &course, guess).await;
    } else {
        repeat(&shared, &course, async |shared: &Shared, course: &Course| {
            let began = Instant::now();
            Session::logged_in(shared, course.next_number()).await?.quit().await?;
            course.finished(began);
            Ok(())
        })
        .await;
    }
    println!(
        "{}",
        json!({
            "done": course.done.get(), "failed": course.failed.get(), "seconds": course.seconds(),
            "rate": course.steady_rate(&shared.load), "replies": *course.replies.borrow(),
            "median_ms": course.quantile(0.5), "p95_ms": course.quantile(0.95), "p99_ms": course.quantile(0.99),
        })
    );
    Ok(())
}

/// Wrong passwords in one session. Only those that were refused as such are done; who is told to come again later goes on
/// too, as guessers do.
async fn guess(shared: &Shared, course: &Course) -> Result<(), Failure> {
    let mut number = course.next_number();
    let mut session = Session::secured(shared, number).await?;
    for left in (0..shared.load.tries).rev() {
        let began = Instant::now();
        let (code, reply) = session.login(number).await?;
        *course.replies.borrow_mut().entry(reply.clone()).or_default() += 1;
        match code {
            535 => course.finished(began),
            454 => {}
            421 => return Ok(()),
            _ => return Err(reply.into()),
        }
        if left > 0 && course.goes_on(&shared.load) {
            number = course.next_number();
        } else {
            break;
        }
    }
    session.quit().await
}

/// `sessions` workers doing `work` again and again until it is enough; one that fails pauses a moment.
async fn repeat(shared: &Rc<Shared>, course: &Rc<Course>, work: impl AsyncFn(&Shared, &Course) -> Result<(), Failure> + 'static) {
    let work = Rc::new(work);
    let tasks = LocalSet::new();
    for _ in 0..shared.load.sessions {
        let (shared, course, work) = (Rc::clone(shared), Rc::clone(course), Rc::clone(&work));
        tasks.spawn_local(async move {
            while course.goes_on(&shared.load) {
                if let Err(problem) = work(&shared, &course).await {
                    course.failed(&problem);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        });
    }
    tasks.await;
}

/// Opens the sessions, 16 at a time, and holds them.
pub(crate) async fn idle(load: Load) -> Result<(), Failure> {
    let shared = Shared::new(load)?;
    let mut open = Vec::with_capacity(shared.load.sessions);
    while open.len() < shared.load.sessions {
        let session = if shared.load.anonymous { Session::secured(&shared, 0).await? } else { Session::logged_in(&shared, 0).await? };
        open.push(session);
    }
    println!("{}", json!({ "open": open.len() }));
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    let mut alive = 0;
    for session in open {
        alive += u64::from(session.quit().await.is_ok());
    }
    println!("{}", json!({ "alive": alive }));
    Ok(())
}

/// Waits until the sink has everything that was acknowledged, or nothing more comes.
async fn tell_relayed(load: &Load, course: &Course) -> Result<(), Failure> {
    let acknowledged = course.done.get();
    let mut seen = report(load).await?;
    let mut moved = Instant::now();
    while seen.whole < acknowledged && moved.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let newer = report(load).await?;
        if newer.whole != seen.whole {
            moved = Instant::now();
        }
        seen = newer;
    }
    println!(
        "{}",
        json!({
            "acknowledged": acknowledged, "failed": course.failed.get(), "seconds": course.seconds(),
            "accepted_rate": rate(acknowledged, course.seconds()),
            "rate": rate(seen.whole, seen.last - course.started_at.get()),
            "lost": acknowledged.saturating_sub(seen.whole), "doubled": seen.doubled, "damaged": seen.damaged,
            "median_ms": course.quantile(0.5), "p99_ms": course.quantile(0.99),
        })
    );
    Ok(())
}
