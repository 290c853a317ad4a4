//! What a worker is, and the one way in which all of them are kept going.
//!
//! A worker finds files, and hands them to [`reconcile`](super::reconcile) by a [`Crew`](super::work::Crew). It works in turns; between
//! two of them it is paused, waits for the ledger, rests or ends. Where it is lies in the ledger, so that it may be begun anew at any moment.
//!
//! Always true: a worker that fails, also by a panic, is begun again after a pause. When ledger and journal disagree, or an operator has the
//! datacenter rest or removed ([`member`](super::member)), it is left as it stands, as by a kill; when that is over it begins with what the ledger has by then.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::status::{Figures, State};
use super::trouble::{Pauses, rest};
use crate::ledger::LedgerError;

/// A worker that has kept going for so long has recovered from what it failed by before.
const RECOVERED: Duration = Duration::from_secs(60);

/// What finds files.
#[async_trait]
pub(super) trait Worker: Send {
    /// Does a piece of what there is to do.
    ///
    /// # Errors
    /// The ledger's, when it is away: the next turn does the same piece again.
    async fn turn(&mut self) -> Result<Turn, LedgerError>;

    /// Lets what is under way come to its end: repair stops.
    async fn finish(&mut self);
}

/// What came of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// There may be more to do.
    Worked,
    /// There is nothing to do for this time, unless somebody asks.
    Idle(Duration),
}

/// How a worker begins: with its place, as the ledger has it.
pub(super) type Begin = fn(Arc<Shared>) -> BoxFuture<'static, Result<Box<dyn Worker>, LedgerError>>;

/// Keeps one worker going until repair stops.
pub(super) async fn keep(shared: Arc<Shared>, figures: Arc<Figures>, begin: Begin) {
    let mut pauses = Pauses::default();
    let stop = &shared.reconciler.stop;
    if !*shared
        .registered
        .get_or_init(|| shared.is_registered())
        .await
    {
        return;
    }
    while !stop.is_cancelled() {
        let may = async {
            shared.part_lets(figures.name(), true).await;
            shared.trust.given().await;
        };
        tokio::select! {
            biased;
            () = may => {}
            () = stop.cancelled() => return,
        }
        let began = Instant::now();
        let working = async {
            shared.load_settings().await?;
            let worker = begin(Arc::clone(&shared)).await?;
            turns(worker, &shared, &figures).await;
            Ok(())
        };
        let ended = tokio::select! {
            biased;
            ended = AssertUnwindSafe(working).catch_unwind() => Some(ended),
            () = shared.trust.withdrawn() => None,
            () = shared.part_lets(figures.name(), false) => None,
        };
        match ended {
            None => {
                shared.forget(&figures);
                if let Some(why) = shared.hindered() {
                    figures.note(why);
                }
                continue;
            }
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => trouble(&shared, &figures, &error),
            Some(Err(_panic)) => {
                tracing::error!(
                    worker = figures.name(),
                    "a worker failed; it is begun again"
                );
                figures.note("it failed by a mistake in the program: see the log".to_owned());
                figures.state(State::Idle);
            }
        }
        if began.elapsed() > RECOVERED {
            pauses = Pauses::default();
        }
        if !pauses.wait(stop).await {
            break;
        }
    }
}

/// One turn after another, until repair stops.
pub(super) async fn turns(mut worker: Box<dyn Worker>, shared: &Shared, figures: &Figures) {
    let stop = &shared.reconciler.stop;
    let mut pauses = Pauses::default();
    while !stop.is_cancelled() {
        figures.unless_paused().await;
        match worker.turn().await {
            Ok(turn) => {
                pauses = Pauses::default();
                if let Turn::Idle(pause) = turn {
                    tokio::select! {
                        biased;
                        () = figures.asked.notified() => {}
                        _ = rest(pause, stop) => {}
                    }
                }
            }
            // What is in work goes on.
            Err(error) => {
                trouble(shared, figures, &error);
                pauses.wait(stop).await;
            }
        }
    }
    worker.finish().await;
}

/// Looks at files, some at a time, and rests as the worker is to rest after that. `None` if repair is stopping.
///
/// # Errors
/// The first of a look; the others are left.
pub(super) async fn look_at_all<T>(
    looks: Vec<impl Future<Output = Result<T, LedgerError>>>,
    at_once: usize,
    figures: &Figures,
    stop: &CancellationToken,
) -> Result<Option<Vec<T>>, LedgerError> {
    let began = Instant::now();
    let looks = stream::iter(looks)
        .buffer_unordered(at_once)
        .try_collect::<Vec<_>>();
    let seen = tokio::select! {
        biased;
        seen = looks => seen?,
        () = stop.cancelled() => return Ok(None),
    };
    let pause = figures.pace.rest_after(began.elapsed());
    Ok(rest(pause, stop).await.then_some(seen))
}

/// The ledger is away.
pub(super) fn trouble(shared: &Shared, figures: &Figures, error: &LedgerError) {
    shared.reconciler.trouble.begin(error);
    figures.note(error.to_string());
    figures.state(State::WaitingForLedger);
}
