//! The HTTP API: what is here, what is missing where, and the three calls of the first version.
//!
//! | call | answers |
//! | --- | --- |
//! | `GET /healthz` | 200 while this process answers at all |
//! | `GET /readyz` | 200 when clients are served and the ledger answers; else 503, and a line that says why |
//! | `GET /v1/status` | this datacenter: journal, repair, proxy, gaps, whether it is proved in sync |
//! | `GET /metrics` | the same in figures, for Prometheus; see `metrics` |
//! | `GET /v1/files/{domain}/{key}` | one file: its head, who holds what, where it is due and where it is missing |
//! | `GET /v1/explain/{domain}/{key}` | why the file is here, or is not |
//! | `GET /v1/gaps` | what did not work at once here, most urgent first |
//! | `GET`, `PUT`, `DELETE /v1/placements/…` | where files are due, as an operator has said; see `placements` |
//! | `/v1/repair…` | what repair's workers are doing, and may do; see `workers` |
//! | `POST /v1/doubt/accept` | a person accepts the doubt of this `id`; see [`crate::trust`] |
//! | `/file/…` | [`bare_fids`] |
//!
//! Always true: whatever is asked, the answer is JSON (but for `/healthz`, `/readyz` and `/metrics`), and a mistake has a `message` that says
//! what was wrong; the status is decided in one place ([`Refusal`]). A body is at most [`MAX_BODY`], the
//! connections at most [`MAX_CONNECTIONS`]. "In sync" is said only as the [`Vitals`] have proved it.
//! Never here: changing a file at a tracker. Killed in the middle: nothing is kept here but leases of a minute, and a count that is made anew.

pub mod bare_fids;
mod doubt;
mod explain;
mod files;
mod gap_count;
mod hunt;
mod listener;
mod metrics;
mod placements;
mod ready;
mod refusal;
mod status;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::map_response_with_state;
use axum::routing::{get, post, put};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::ApiConfig;
use crate::file::{Datacenter, FileName, NodeName};
use crate::journal::debt::Paying;
use crate::journal::{Debts, Depth, Refused};
use crate::ledger::{Ledger, LedgerError};
use crate::placement::Placements;
use crate::repair::explain::Explanation;
use crate::repair::settings::{Change, NotChanged};
use crate::repair::status::WorkerStatus;
use crate::trust::{Doubt, NotAccepted};
use crate::version::{Clock, Version};
use crate::{proxy, repair};

pub use refusal::Refusal;

/// The longest body that is read: the calls that have one need a few hundred bytes.
pub const MAX_BODY: usize = 64 << 10;
/// Connections at once. Scripts and people need a few; a flood of them must not take the proxy's sockets.
pub const MAX_CONNECTIONS: usize = 512;
/// How long a ledger may take. Every call of it has a limit of its own; this one is for those that ask.
const LEDGER_LIMIT: Duration = Duration::from_secs(10);
/// How long a stop waits for answers under way: the slowest asks the ledger once or twice.
const DRAIN: Duration = Duration::from_secs(5);

/// What the API shows and speaks for.
pub struct Context {
    /// `[api]`
    pub config: ApiConfig,
    /// Where we are.
    pub datacenter: Datacenter,
    /// Who we are.
    pub node: NodeName,
    /// Where the truth is.
    pub ledger: Arc<dyn Ledger>,
    /// The node's clock: what [`bare_fids`] are stamped with.
    pub clock: Arc<Clock>,
    /// What the other parts of this process say of themselves.
    pub vitals: Arc<dyn Vitals>,
}

/// What the other parts of this process say of themselves. From memory: nothing here waits, but for [`Self::accept`],
/// [`Self::change_worker`] and [`Self::explain`].
#[async_trait]
pub trait Vitals: Send + Sync + 'static {
    /// How full the journal is.
    fn journal(&self) -> Depth;
    /// What the ledger has, but not yet everywhere, and how it goes with that.
    fn debts(&self) -> (Debts, Paying);
    /// Why mutations are refused at the moment, if they are.
    fn refusing(&self) -> Option<Refused>;
    /// What repair's workers are doing.
    fn repair(&self) -> repair::status::Status;
    /// The proxy's counts.
    fn proxy(&self) -> proxy::Stats;
    /// What is proved.
    fn proof(&self) -> Proof;
    /// Why the ledger did not hear this node the last time that it spoke, or has not heard it yet.
    fn unheard(&self) -> Option<String>;
    /// What ledger and journal disagree about, if they do.
    fn doubt(&self) -> Option<Arc<Doubt>>;
    /// Why a file is here, or is not.
    async fn explain(&self, file: &FileName) -> Explanation;
    /// What a worker of repair may do is changed, and kept.
    async fn change_worker(&self, worker: &str, change: Change)
    -> Result<WorkerStatus, NotChanged>;
    /// A worker of repair is told to begin.
    fn begin_worker(&self, worker: &str) -> Result<(), NotChanged>;
    /// A person accepts the doubt of this id. The next one, if another stood behind it.
    async fn accept(&self, doubt: &str) -> Result<Option<Arc<Doubt>>, NotAccepted>;
}

/// Whether this datacenter holds all that it should, as of when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Proof {
    /// Proved, and nothing is known that speaks against it.
    pub in_sync: bool,
    /// As of when: every change that was made before has been looked at. `None` while there never was a proof.
    pub proved_at: Option<Version>,
}

/// What the handlers share.
struct Api {
    context: Context,
    hunts: hunt::Hunts,
    gap_count: gap_count::GapCount,
    /// `/file/new` looks before it writes: one at a time.
    inserting: tokio::sync::Mutex<()>,
    /// So does who sets a placement.
    placing: tokio::sync::Mutex<()>,
}

type Shared = State<Arc<Api>>;

/// All routes.
pub fn router(context: Context) -> Router {
    let api = Arc::new(Api {
        context,
        hunts: hunt::Hunts::default(),
        gap_count: gap_count::GapCount::default(),
        inserting: tokio::sync::Mutex::default(),
        placing: tokio::sync::Mutex::default(),
    });
    let first_version = Router::new()
        .route("/file/bad/{dc}", get(bare_fids::bad))
        .route("/file/add/{dc}", post(bare_fids::add))
        .route("//file/add/{dc}", post(bare_fids::add))
        .route("/file/new", post(bare_fids::new))
        .layer(map_response_with_state(
            Arc::clone(&api),
            bare_fids::compatible_status,
        ));
    Router::new()
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(ready::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/status", get(status::status))
        .route("/v1/doubt/accept", post(doubt::accept))
        .route("/v1/repair", get(workers::all))
        .route("/v1/repair/workers/{worker}", put(workers::change))
        .route("/v1/repair/workers/{worker}/begin", post(workers::begin))
        .route("/v1/files/{domain}/{*key}", get(files::file))
        .route("/v1/explain/{domain}/{*key}", get(explain::explain))
        .route("/v1/gaps", get(files::gaps))
        .route("/v1/placements", get(placements::all))
        .route(
            "/v1/placements/{*of}",
            get(placements::of_domain)
                .put(placements::set)
                .delete(placements::take_back),
        )
        .merge(first_version)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(api)
}

async fn no_such_path(request: Request) -> Refusal {
    Refusal::NotFound(format!(
        "nothing is at {}; try /v1/status, /v1/files/DOMAIN/KEY, /v1/explain/DOMAIN/KEY, /v1/gaps, /v1/placements, /v1/repair, /metrics, /healthz or /readyz",
        request.uri().path()
    ))
}

async fn no_such_method(request: Request) -> Refusal {
    let (method, path) = (request.method(), request.uri().path());
    Refusal::Method(format!("{path} does not take {method}"))
}

/// Serves until `stop`, then finishes what is under way.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(
    listener: TcpListener,
    context: Context,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listener::Bounded::new(listener, MAX_CONNECTIONS);
    let serving = axum::serve(listener, router(context))
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        ended = serving.into_future() => ended,
        // Somebody holds half a request: they have had their time.
        () = async { stop.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}

impl Api {
    async fn placements(&self) -> Result<Placements, Refusal> {
        self.ask(
            "read the placements",
            Placements::load(&*self.context.ledger),
        )
        .await
    }

    /// Asks the ledger, not for ever.
    async fn ask<T>(
        &self,
        doing: &'static str,
        asking: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, Refusal> {
        match tokio::time::timeout(LEDGER_LIMIT, asking).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Refusal::Ledger(LedgerError::Unavailable {
                doing,
                why: format!("no answer within {} s", LEDGER_LIMIT.as_secs()),
            })),
        }
    }
}

/// A version as people and scripts write a time.
pub(crate) fn rfc3339(version: Version) -> String {
    let micros = u64::try_from(version.0).unwrap_or_default();
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_micros(micros));
    match time {
        // The format ends with the year 9999.
        Some(time) if micros < 253_402_300_800_000_000 => {
            humantime::format_rfc3339_micros(time).to_string()
        }
        _ => format!("{version} µs since 1970"),
    }
}
