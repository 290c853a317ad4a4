//! The machine that a node runs on, as far as the node asks it: the wall clock, chance, work off the runtime, connections to
//! trackers and storage nodes, and whether its disk takes anything.
//!
//! A simulation (`simulate`) plays machines: several in one thread, each with a clock, a disk and a network that fail when the
//! story says so. Everything else of a node is the same code in both.
//!
//! Always true: outside of a simulation all of this is the real thing, for the price of one look at a cell of the thread's own. A task
//! of a played machine is polled on that machine alone, and never again once it has crashed.
//! Left to those who add code that a simulation runs: `tokio::select!` picks at random, so it is `biased` there; tasks begin by
//! [`spawn_in`]; no order comes from a map that hashes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use mogilefs_protocol::client::{Client, ClientError, Timeouts, Wire};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::{JoinError, JoinSet};

/// A machine that is played.
pub trait Played: Send + Sync {
    /// Its wall clock, in µs since 1970.
    fn wall_clock(&self) -> i64;
    /// A number by chance, the same in each run of one seed.
    fn random(&self) -> u64;
    /// Whether it runs: nothing of one that has crashed is polled any more.
    fn is_alive(&self) -> bool;
    /// Whether its disk takes nothing.
    fn disk_is_full(&self) -> bool;
    /// A connection to the tracker at this address.
    fn connect(&self, addr: &str) -> BoxFuture<'static, io::Result<Box<dyn Wire>>>;
    /// What a storage node answers.
    fn send(&self, request: reqwest::Request) -> BoxFuture<'static, io::Result<reqwest::Response>>;
    /// Whether this rule is switched out, so that a test can see that its absence is noticed.
    fn lacks(&self, rule: Rule) -> bool;
}

thread_local! {
    static PLAYED: RefCell<Option<Arc<dyn Played>>> = const { RefCell::new(None) };
}

/// The machine that is played where this is called; `None` on a real one.
pub fn played() -> Option<Arc<dyn Played>> {
    PLAYED.with_borrow(Clone::clone)
}

/// Asks a played machine; `None` on a real one.
fn ask<T>(question: impl FnOnce(&dyn Played) -> T) -> Option<T> {
    PLAYED.with_borrow(|played| played.as_deref().map(question))
}

/// µs since 1970, by this machine's clock.
pub fn wall_clock() -> i64 {
    ask(|machine| machine.wall_clock()).unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
    })
}

/// A number by chance.
pub fn random() -> u64 {
    ask(|machine| machine.random()).unwrap_or_else(rand::random)
}

/// A source of chance.
pub fn rng() -> StdRng {
    StdRng::seed_from_u64(random())
}

/// Whether the disk of a played machine takes nothing. Real ones say so by themselves.
pub fn disk_is_full() -> bool {
    ask(|machine| machine.disk_is_full()).unwrap_or(false)
}

/// Runs what may take its time where it holds up nobody.
///
/// # Errors
/// If it panics.
pub async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if PLAYED.with_borrow(Option::is_some) {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

/// Begins a task of this machine.
pub fn spawn_in<T: Send + 'static>(
    tasks: &mut JoinSet<T>,
    task: impl Future<Output = T> + Send + 'static,
) {
    match played() {
        None => tasks.spawn(task),
        Some(machine) => tasks.spawn(On::machine(machine, task)),
    };
}

/// Connects to a tracker.
///
/// # Errors
/// [`ClientError::Connect`]
pub async fn connect(addr: &str, timeouts: Timeouts) -> Result<Client, ClientError> {
    let Some(dialled) = ask(|machine| machine.connect(addr)) else {
        return Client::connect(addr, timeouts).await;
    };
    match tokio::time::timeout(timeouts.connect, dialled).await {
        Ok(Ok(wire)) => Ok(Client::over_wire(wire, timeouts)),
        Ok(Err(source)) => Err(ClientError::Connect {
            addr: addr.to_owned(),
            source,
        }),
        Err(_elapsed) => Err(ClientError::Connect {
            addr: addr.to_owned(),
            source: io::Error::from(io::ErrorKind::TimedOut),
        }),
    }
}

/// A storage node did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The HTTP client's.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    /// A played network's.
    #[error(transparent)]
    Played(#[from] io::Error),
}

/// Sends a request to a storage node.
///
/// # Errors
/// If it is not reached, or the connection breaks.
pub async fn send(request: reqwest::RequestBuilder) -> Result<reqwest::Response, SendError> {
    let Some(machine) = played() else {
        return Ok(request.send().await?);
    };
    Ok(machine.send(request.build()?).await?)
}

/// A future of a played machine.
pub struct On<F> {
    machine: Arc<dyn Played>,
    task: Pin<Box<F>>,
}

impl<F: Future> On<F> {
    /// That is polled on this machine, as long as it runs.
    pub fn machine(machine: Arc<dyn Played>, task: F) -> Self {
        let task = Box::pin(task);
        Self { machine, task }
    }
}

impl<F: Future> Future for On<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !self.machine.is_alive() {
            return Poll::Pending;
        }
        let _here = Here::on(Arc::clone(&self.machine));
        self.task.as_mut().poll(context)
    }
}

/// While it is held, the thread is on a machine.
pub struct Here(Option<Arc<dyn Played>>);

impl Here {
    /// From now on this is the machine.
    pub fn on(machine: Arc<dyn Played>) -> Here {
        Here(PLAYED.replace(Some(machine)))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        PLAYED.set(self.0.take());
    }
}

/// A rule that decides correctness, by what the code does for it. Nobody switches one out but a test that wants to see that a
/// simulation notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Rule {
    /// The clock is moved above what arrives, before it arrives here.
    ClockFollows,
    /// A version that is too far ahead moves no shared clock.
    ClockIsBound,
    /// Contents are compared as a whole, not by their versions.
    ContentIsWhole,
    /// What a tracker may still carry out is waited for.
    QuietTime,
    /// A cursor stands before the first hole.
    HolesStay,
    /// A reader that finds an older head than its change names has not seen it yet.
    ChangeNamesVersion,
    /// What repair does is marked as a copy.
    CopiesAreMarked,
    /// A digest that nobody has verified is a claim.
    ClaimsAreNothing,
    /// "In sync" is as of what all nodes have still to tell.
    SilenceFreezes,
}

impl Rule {
    /// All that can be left out.
    pub const ALL: [Rule; 9] = [
        Rule::ClockFollows,
        Rule::ClockIsBound,
        Rule::ContentIsWhole,
        Rule::QuietTime,
        Rule::HolesStay,
        Rule::ChangeNamesVersion,
        Rule::CopiesAreMarked,
        Rule::ClaimsAreNothing,
        Rule::SilenceFreezes,
    ];
}

/// Whether a rule is kept. Always, but in a simulation of a build with the feature `rule-switches`.
#[inline]
pub fn keeps(rule: Rule) -> bool {
    if !cfg!(feature = "rule-switches") {
        return true;
    }
    !ask(|machine| machine.lacks(rule)).unwrap_or(false)
}
