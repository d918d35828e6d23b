//! What outlives every configuration, and how parts are made on it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use super::lane::Lanes;
use super::surroundings::Surroundings;
use super::tended::Tended;
use super::{Error, settings, token_proxy};
use crate::clock::Wall;
use crate::config::Resolved;
use crate::memory::{AnswerMemory, MemoryBudget, Shares};
use crate::task::Tasks;
use crate::telemetry::trace::{self, Tracer};
use crate::{coalesce, fleet, net, queue, region, scan, server, store, token};

/// What outlives every configuration.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) tasks: Tasks,
    pub(super) wall: Wall,
    pub(super) surroundings: Surroundings,
    pub(super) tracer: Tracer,
    /// What replicas share the quota and answers through, if there is one: as it was at the start.
    pub(super) store: Option<store::Client>,
    pub(super) lanes: Lanes,
    pub(super) meters: Meters,
    pub(super) memory: Memory,
}

/// What each purpose may take of the memory, and the budgets of those that are shared. Divided once: what is held outlives settings.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) shares: Shares,
    pub(super) answers: AnswerMemory,
    pub(super) waiting: Arc<MemoryBudget>,
}

impl Memory {
    pub(super) fn new(shares: Shares) -> Self {
        Self {
            shares,
            answers: shares.answers(),
            waiting: MemoryBudget::new(shares.waiting),
        }
    }
}

/// Where parts report that may be made anew.
#[derive(Clone, Debug)]
pub(super) struct Meters {
    pub(super) queue: queue::Metrics,
    pub(super) count: server::count::Metrics,
    pub(super) token: token::Metrics,
    /// Registered if there was a store at the start; whether there is one does not change.
    pub(super) fleet: Option<fleet::Metrics>,
}

impl Ground {
    pub(super) fn keeper(
        &self,
        config: &Resolved,
        token: token::Config,
        net: &net::Client,
    ) -> Result<Tended<token::Keeper>, Error> {
        let exchanges = token_proxy::exchanges(net, &config.credentials);
        let [exchange, imds] = exchanges.map(|exchange| trace::traced(exchange, &self.tracer, "sign in"));
        Tended::make(&self.tasks, |tasks| {
            let metrics = self.meters.token.clone();
            Ok(token::Keeper::start(
                token,
                exchange,
                imds,
                self.wall.clone(),
                tasks,
                metrics,
            ))
        })
    }

    pub(super) fn regions(
        &self,
        config: region::Config,
        metrics: region::Metrics,
        net: &net::Client,
    ) -> Tended<region::Table> {
        let Ok(tended) = Tended::make(&self.tasks, |tasks| {
            let table = region::Table::new(config, metrics);
            table.watch(tasks, net.connector().clone());
            Ok::<_, Infallible>(table)
        });
        tended
    }

    pub(super) fn fair_use(&self, config: &Resolved) -> Option<Tended<queue::FairUse>> {
        let limit = config.callers.limit.as_ref()?;
        let fair_use = queue::FairUse::new(limit.calls, limit.window)?;
        let Ok(tended) = Tended::make(&self.tasks, |tasks| {
            fair_use.spawn_upkeep(tasks);
            Ok::<_, Infallible>(fair_use)
        });
        Some(tended)
    }

    pub(super) fn coalesce(
        &self,
        config: &Resolved,
        attempt: Duration,
        keep: Arc<dyn scan::Keep>,
        lore: &Arc<scan::Lore>,
        metrics: coalesce::Metrics,
    ) -> coalesce::Layer {
        let (waits, scarcity, slots) = (self.lanes.clone(), self.lanes.clone(), self.lanes.clone());
        let outlook = coalesce::Outlook {
            wait: Arc::new(move |payer| waits.predicted_wait(payer)),
            scarcity: Arc::new(move |payer| scarcity.scarcity(payer)),
            slots: Arc::new(move |payer, until, most| slots.slots_until(payer, until, most)),
        };
        coalesce::Layer::new(
            settings::coalesce(config, attempt),
            self.tasks.clone(),
            keep,
            Arc::clone(lore),
            outlook,
            metrics,
        )
    }
}
