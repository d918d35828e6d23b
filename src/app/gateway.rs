//! The running gateway.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admin_thread::AdminThread;
use super::lane::Lanes;
use super::made::Made;
use super::status::Status;
use super::surroundings::Surroundings;
use super::{Error, settings};
use crate::config::Resolved;
use crate::task::Tasks;
use crate::telemetry::metrics::{Mode, ModeGauge, Registry};
use crate::telemetry::trace::Exporter;
use crate::{admin, quota, server, stack};

/// A gateway whose listeners are bound and whose upkeep runs; [`Gateway::serve`] lets callers in.
#[derive(Debug)]
pub struct Gateway {
    data: server::Bound,
    admin: AdminThread,
    parts: stack::Parts,
    lanes: Lanes,
    health: admin::Health,
    mode: ModeGauge,
    tasks: Tasks,
    stop: CancellationToken,
    exporter: Exporter,
    linger: Duration,
    drain: Duration,
}

/// How a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were cut at the end of the drain, with requests in flight.
    pub cut: usize,
    /// Tasks that did not end in time.
    pub left: usize,
}

impl Gateway {
    /// Builds every part, takes the addresses, starts upkeep: signing in, probing regions. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`Error`] when an address is taken, a file cannot be used, or a part refuses its settings.
    pub async fn start(config: &Resolved) -> Result<Self, Error> {
        Self::start_in(config, Surroundings::default()).await
    }

    /// The same in other surroundings, for tests.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn start_in(config: &Resolved, surroundings: Surroundings) -> Result<Self, Error> {
        let tasks = Tasks::new();
        let mut registry = Registry::new(env!("CARGO_PKG_VERSION"));
        let built = Made::new(config, surroundings, &tasks, registry.root())?;
        let data = server::Bound::bind(settings::data_listener(config))
            .await
            .map_err(Error::of("the data listener"))?;
        built.regions.watch(&tasks, built.net.connector().clone());
        let status = Status {
            started: Instant::now(),
            quota: built.lanes.quota().clone(),
            queue: built.lanes.queue().clone(),
            regions: built.regions,
            keeper: built.keeper,
            cache: built.cache,
            fleet: built.fleet,
            saved: built.saved,
        };
        let stop = CancellationToken::new();
        let mode = registry.mode();
        let health = admin::Health::new(status.checks());
        let view = view(config, registry, status, health.clone(), stop.clone());
        let admin = AdminThread::start(settings::admin_listener(config), admin::Admin::new(view))?;
        Ok(Self {
            data,
            admin,
            parts: built.parts,
            lanes: built.lanes,
            health,
            mode,
            tasks,
            stop,
            exporter: built.exporter,
            linger: config.server.linger,
            drain: config.server.drain,
        })
    }

    /// Where callers are served; port 0 has become the port that was chosen.
    #[must_use]
    pub fn addresses(&self) -> &[server::Address] {
        self.data.addresses()
    }

    /// Where health, metrics and status are served.
    #[must_use]
    pub fn admin_address(&self) -> &server::Address {
        self.admin.address()
    }

    /// Ends the gateway when cancelled, as `POST /quitquitquit` does.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Answers callers until the stop, then drains: what can be answered in time is, what cannot is told at once.
    ///
    /// # Cancel safety
    /// Dropping the future cuts all connections.
    pub async fn serve(self) -> Ended {
        let Self {
            data,
            admin,
            parts,
            lanes,
            health,
            mode,
            tasks,
            stop,
            exporter,
            linger,
            drain,
        } = self;
        health.set_ready();
        let draining = async {
            stop.cancelled().await;
            tracing::info!(
                linger_s = linger.as_secs(),
                drain_s = drain.as_secs(),
                "draining: after the linger no new connections; work in flight is finished"
            );
            health.set_draining();
            mode.set(Mode::Draining);
            // The last call must leave early enough for its answer to arrive.
            lanes.close(Instant::now() + linger + drain.saturating_sub(ANSWER));
        };
        let serving = data.serve(stack::build(parts), &tasks, stop.clone());
        let (drained, ()) = tokio::join!(serving, draining);
        let left = tasks.finish(Duration::from_secs(1)).await;
        // Last: what the drain itself did is traced too.
        exporter.finish(Duration::from_secs(1)).await;
        admin.finish().await;
        tracing::info!(cut = drained.cut, left, "stopped");
        Ended { cut: drained.cut, left }
    }
}

/// Time kept at the end of the drain for answers to arrive.
const ANSWER: Duration = Duration::from_secs(3);

fn view(
    config: &Resolved,
    registry: Registry,
    status: Status,
    health: admin::Health,
    stop: CancellationToken,
) -> admin::View {
    let (quota, queue) = (status.quota.clone(), status.queue.clone());
    let quit: Arc<dyn Fn() + Send + Sync> = Arc::new(move || stop.cancel());
    admin::View {
        status: {
            let health = health.clone();
            Arc::new(move || status.show(mode(&health, &status.quota)))
        },
        metrics: {
            let health = health.clone();
            let gauge = registry.mode();
            Arc::new(move |exposition| {
                quota.show();
                queue.show();
                gauge.set(mode(&health, &quota));
                registry.encode(exposition)
            })
        },
        health,
        openapi: server::OPENAPI.into(),
        quit: config.admin.quit.then_some(quit),
    }
}

/// What the gateway is doing now.
fn mode(health: &admin::Health, quota: &quota::Quota) -> Mode {
    if health.state() == admin::State::Draining {
        Mode::Draining
    } else if quota.lost().is_some() {
        Mode::StoreLost
    } else {
        Mode::Normal
    }
}
