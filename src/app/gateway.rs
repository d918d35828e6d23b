//! The running gateway, with the admin listener on a thread of its own: a probe is answered while
//! the data side is saturated.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::components::Components;
use super::context::HostEnvironment;
use super::history::{CallMetrics, History};
use super::problems::Problems;
use super::reload::{ConfigSource, Reloader};
use super::settings;
use super::status::{Sources, Status};
use crate::config::{Document, Resolved};
use crate::resources::{self, Machine};
use crate::task::Tasks;
use crate::telemetry::metrics::{Mode, ModeGauge, Registry};
use crate::telemetry::trace::Exporter;
use crate::{BoxError, admin, server, stack};

/// A gateway whose listeners are bound and whose upkeep runs; [`Gateway::serve`] lets callers in.
pub struct Gateway {
    data: server::Bound,
    admin: AdminThread,
    reloader: Reloader,
    health: admin::Health,
    mode: ModeGauge,
    tasks: Tasks,
    stop: CancellationToken,
    exporter: Exporter,
}

/// How a gateway ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were cut at the end of the drain, with requests in flight.
    pub cut: usize,
    /// Tasks that did not end in time.
    pub left: usize,
    /// It ended because upkeep had panicked, not because it was told to.
    pub failed: bool,
}

/// A gateway that could not be started. The configuration was checked, so what is left is the
/// machine: ports, files, sockets.
#[derive(Debug, thiserror::Error)]
#[error("cannot start: {part}")]
pub struct Error {
    /// What could not be made.
    pub part: &'static str,
    /// Why.
    pub source: BoxError,
}

impl Error {
    pub(super) fn of<E: Into<BoxError>>(part: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self {
            part,
            source: error.into(),
        }
    }
}

impl Gateway {
    /// Builds every part, takes the addresses, starts upkeep: signing in, probing regions. Needs a
    /// running tokio runtime.
    ///
    /// # Errors
    /// [`Error`] when an address is taken, a file cannot be used, or a part refuses its settings.
    pub async fn start(config: &Resolved) -> Result<Self, Error> {
        Self::start_in(config, HostEnvironment::default()).await
    }

    /// The same in another environment, for tests.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn start_in(config: &Resolved, environment: HostEnvironment) -> Result<Self, Error> {
        let (tasks, machine) = (Tasks::new(), environment.machine);
        let mut registry = Registry::new(env!("CARGO_PKG_VERSION"));
        let (built, exporter) = Components::first(config, environment, &tasks, registry.root())?;
        let data = server::Bound::bind(settings::data_listener(config, machine, &built.context.memory))
            .await
            .map_err(Error::of("the data listener"))?;
        let context = built.context.clone();
        announce(&built, machine);
        let reloader = Reloader::new(built, registry.root());
        let connections = data.connections();
        registry.root().register_collector(Box::new(connections.clone()));
        let sources = Arc::new(Sources {
            started: Instant::now(),
            context,
            connections,
            current: reloader.current(),
            configuration: reloader.configuration(),
        });
        let health = admin::Health::default();
        let status = Status {
            problems: Problems::start(Arc::clone(&sources), registry.root(), &tasks),
            history: History::start(Arc::clone(&sources), &tasks),
            calls: CallMetrics::register(registry.root()),
            host: resources::host_name().into(),
            health: health.clone(),
            sources,
        };
        let stop = CancellationToken::new();
        let mode = registry.mode();
        let view = view(config, registry, status, stop.clone());
        let admin = AdminThread::start(settings::admin_listener(config, machine), admin::Admin::new(view))?;
        Ok(Self {
            data,
            admin,
            reloader,
            health,
            mode,
            tasks,
            stop,
            exporter,
        })
    }

    /// Where callers are served; port 0 has become the port that was chosen.
    pub fn addresses(&self) -> &[server::Address] {
        self.data.addresses()
    }

    /// Where health, metrics and status are served.
    pub fn admin_address(&self) -> &server::Address {
        self.admin.address()
    }

    /// Ends the gateway when cancelled, as `POST /quitquitquit` does.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Changes the configuration of the running gateway.
    pub fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// Takes over what changes at `config_source`, which looked like `document` when the gateway
    /// started, until the gateway ends; at once whenever `asked` is notified.
    pub fn follow(&self, source: ConfigSource, document: Document, asked: Arc<Notify>) {
        let watch = self.reloader.clone().follow(source, document, asked);
        self.tasks.spawn_upkeep("configuration", watch);
    }

    /// Answers callers until the stop, then drains: what can be answered in time is, what cannot is
    /// told at once.
    ///
    /// # Cancel safety
    /// Dropping the future cuts all connections.
    pub async fn serve(self) -> Ended {
        self.health.set_ready();
        let made = self.reloader.current().load_full();
        let (linger, drain) = (made.config.server.linger, made.config.server.drain);
        let context = made.context.clone();
        let path = self.reloader.path(|made| stack::build(made.parts()));
        // What it keeps up in the background must end with the last request to it.
        drop(made);
        let draining = async {
            tokio::select! {
                () = self.stop.cancelled() => {}
                // Without it callers might wait for ever, while every probe is answered.
                () = self.tasks.failed() => self.stop.cancel(),
            }
            tracing::info!(
                linger_s = linger.as_secs(),
                drain_s = drain.as_secs(),
                "draining: after the linger no new connections; work in flight is finished"
            );
            self.health.set_draining();
            self.mode.set(Mode::Draining);
            // The last call must leave early enough for its answer to arrive.
            let now = Instant::now();
            context.close(now + linger + drain.saturating_sub(ANSWER));
            now + linger + drain
        };
        let serving = self.data.serve(path, &self.tasks, self.stop.clone());
        let (drained, end) = tokio::join!(serving, draining);
        let failed = self.tasks.has_failed();
        // Calls for which nobody waits any more, too: the store has to hear how they ended before it
        // hears that this replica leaves.
        self.tasks.settle(end + LAST).await;
        // What the calls did not need of their time, the store may.
        let rest = (end + 2 * LAST).saturating_duration_since(Instant::now());
        let left = self.tasks.finish(rest.clamp(LAST, 2 * LAST)).await;
        // Last: what the drain itself did is traced too.
        self.exporter.finish(Duration::from_secs(1)).await;
        self.admin.finish().await;
        tracing::info!(cut = drained.cut, left, "stopped");
        let cut = drained.cut;
        Ended { cut, left, failed }
    }
}

/// How long what is left after the drain is waited for at most, and then upkeep at least; both
/// together for no longer than twice that.
const LAST: Duration = Duration::from_millis(500);

/// Time kept at the end of the drain for answers to arrive.
const ANSWER: Duration = Duration::from_secs(3);

/// What was found and chosen, for whoever looks for the reason of a size later.
fn announce(made: &Components, machine: Machine) {
    let cache_bytes = made.cache.config().max_size;
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = made.config.settings.digest(),
        workers,
        cores = machine.cores,
        cpu_limit = machine.cpu_limit,
        memory_limit_bytes = machine.memory_limit,
        memory_bytes = made.context.memory.shares.total,
        open_files = machine.open_files,
        cache_bytes,
        "starting"
    );
    settings::warn_about_memory(&made.config, machine, &made.context.memory.shares);
}

fn view(config: &Resolved, registry: Registry, status: Status, stop: CancellationToken) -> admin::View {
    let current = Arc::clone(&status.sources.current);
    let quit: Arc<dyn Fn() + Send + Sync> = Arc::new(move || stop.cancel());
    let (shown, checked, history) = (status.clone(), status.clone(), status.history.clone());
    admin::View {
        status: Arc::new(move || shown.show()),
        history: Arc::new(move || history.show()),
        health: status.health.clone(),
        checks: Arc::new(move || checked.checks()),
        metrics: Arc::new(move |exposition| {
            status.measure(&registry.mode());
            registry.encode(exposition)
        }),
        openapi: server::OPENAPI.into(),
        named: Arc::new(move |host, peer| current.load().guard.hosts().accept(host, peer)),
        quit: config.admin.quit.then_some(quit),
    }
}

/// The running thread. Dropped, it stops serving and ends by itself.
#[derive(Debug)]
struct AdminThread {
    address: server::Address,
    stop: tokio_util::sync::DropGuard,
    ended: oneshot::Receiver<()>,
}

impl AdminThread {
    /// Takes the address and serves from now on.
    fn start(config: server::Config, service: admin::Admin) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (bound, binding) = std::sync::mpsc::sync_channel(1);
        let (end, ended) = oneshot::channel();
        let body = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                // The receiver waits for exactly one message; it cannot be gone.
                Err(error) => return drop(bound.send(Err(error.into()))),
            };
            runtime.block_on(async {
                let listener = match server::Bound::bind(config).await {
                    Ok(listener) => listener,
                    Err(error) => return drop(bound.send(Err(error.into()))),
                };
                drop(bound.send(Ok(listener.addresses().first().cloned())));
                let service = service.map_request(server::InboundRequest::into_request);
                listener.serve(service, &Tasks::new(), stopped).await;
            });
            // Nobody may be waiting any more.
            let _ = end.send(());
        };
        let spawned = thread::Builder::new().name("admin".into()).spawn(body);
        spawned.map_err(Error::of("the admin thread"))?;
        let bound: Result<_, BoxError> = binding.recv().unwrap_or_else(|gone| Err(gone.into()));
        let address = bound.map_err(Error::of("the admin listener"))?;
        let address = address.ok_or_else(|| Error::of("the admin listener")("it has no address"))?;
        Ok(Self {
            address,
            stop: stop.drop_guard(),
            ended,
        })
    }

    fn address(&self) -> &server::Address {
        &self.address
    }

    /// Stops serving and waits for the thread, which takes no longer than its drain.
    async fn finish(self) {
        drop(self.stop);
        // An error means that the thread is gone already.
        let _ = self.ended.await;
    }
}
