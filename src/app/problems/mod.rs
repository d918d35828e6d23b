//! What is wrong at this moment: the one list behind the page's banner, `/status`,
//! `/readyz?verbose`, `status`, the metric `problem`, the mode, and a log line each when a problem
//! begins and when it ends.
//!
//! Not here: what a request was answered (`server::access_log`). Invariant: the mode is `normal`
//! only while the list is empty.

mod defender;
mod found;
mod sharing;

pub(crate) use defender::advice_on_forbidden;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::status::Sources;
use crate::task::Tasks;
use crate::telemetry::{Gauges, metrics, named_enum};
use found::{Earlier, find};

/// How often somebody looks, if nobody asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is said of a pause while nobody knows yet whether another follows.
const PAUSE_OVER: &str = "Defender answered 429 and ordered a pause, which has just ended";

/// Something that is wrong at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What kind of thing.
    pub(super) code: Code,
    /// How many: requests, calls, hosts or keys, as the message says.
    pub(super) count: u64,
    /// What is wrong.
    pub(super) message: String,
    /// What to do about it.
    pub(super) advice: &'static str,
    /// How bad it is.
    pub(super) severity: Severity,
}

impl Problem {
    fn new(code: Code, message: impl Into<String>, advice: &'static str) -> Self {
        Self {
            code,
            severity: code.severity(),
            count: 1,
            message: message.into(),
            advice,
        }
    }

    fn counting(self, count: u64) -> Self {
        Self { count, ..self }
    }

    fn at_most(self, severity: Severity) -> Self {
        let severity = self.severity.max(severity);
        Self { severity, ..self }
    }
}

/// A problem, and since when it has been there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) since: Instant,
    pub(super) problem: Problem,
    seen: Instant,
    /// When it was last found as severe as it is said to be.
    severe: Instant,
}

/// The list. Clones share it.
#[derive(Clone)]
pub(super) struct Problems(Arc<Shared>);

struct Shared {
    sources: Arc<Sources>,
    earlier: Earlier,
    standing: Mutex<BTreeMap<Code, Standing>>,
    metrics: Metrics,
}

metrics! {
    #[derive(Clone, Debug)]
    struct Metrics {
        /// 1 while there is this problem, 0 otherwise; /status says more of it under the same name.
        problems: Gauges<Code> = "problem" => by("code"),
    }
}

impl Problems {
    /// Looks every second until `tasks` are finished.
    pub(super) fn start(sources: Arc<Sources>, registry: &mut Registry, tasks: &Tasks) -> Self {
        let problems = Self(Arc::new(Shared {
            sources,
            earlier: Earlier::default(),
            standing: Mutex::default(),
            metrics: Metrics::register(registry),
        }));
        let looking = problems.clone();
        tasks.spawn_upkeep("problems", async move {
            let mut clock = interval(LOOK_EVERY);
            clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                clock.tick().await;
                let _ = looking.look();
            }
        });
        problems
    }

    /// The problems that there are now, the worst first.
    pub(super) fn look(&self) -> Vec<Standing> {
        let shared = &*self.0;
        // Held over the look: what is found must not be overtaken by what was found before it.
        let mut standing = shared.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_known = |code| standing.contains_key(&code);
        let found = find(&shared.sources, &shared.earlier, is_known, now);
        update(&mut standing, found, now);
        for code in Code::ALL {
            let is_there = i64::from(standing.contains_key(&code));
            shared.metrics.problems.of(code).set(is_there);
        }
        standing.values().cloned().collect()
    }
}

/// Brings the list up to date, and logs what begins and what ends.
fn update(standing: &mut BTreeMap<Code, Standing>, found: Vec<Problem>, now: Instant) {
    for mut problem in found {
        let code = problem.code;
        if let Some(known) = standing.get_mut(&code) {
            let before = known.problem.severity;
            if problem.severity < before {
                tell(&problem, "a problem has become worse");
            }
            if problem.severity <= before || now.saturating_duration_since(known.severe) > code.linger() {
                known.severe = now;
            } else {
                // It is as bad as it has just been, so that one on the edge does not flicker.
                problem.severity = before;
            }
            known.problem = problem;
            known.seen = now;
            continue;
        }
        tell(&problem, "a problem has begun");
        let begun = Standing {
            since: now,
            problem,
            seen: now,
            severe: now,
        };
        standing.insert(code, begun);
    }
    standing.retain(|code, known| {
        let stays = now.saturating_duration_since(known.seen) <= code.linger();
        if known.seen < now && *code == Code::Paused {
            known.problem.message = PAUSE_OVER.into();
        }
        if !stays {
            let lasted_s = now.saturating_duration_since(known.since).as_secs();
            tracing::info!(problem = code.as_str(), lasted_s, "a problem has ended");
        }
        stays
    });
}

fn tell(problem: &Problem, what: &str) {
    let Problem { count, advice, .. } = problem;
    let (code, detail) = (problem.code.as_str(), &problem.message);
    match problem.severity {
        Severity::Critical => tracing::error!(problem = code, detail, count, advice, "{what}"),
        Severity::Warning => tracing::warn!(problem = code, detail, count, advice, "{what}"),
        Severity::Info => tracing::info!(problem = code, detail, count, advice, "{what}"),
    }
}

named_enum! {
    /// A kind of problem. The order is the one in which people should look at them: the worst
    /// first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub(super) enum Code, as_str {
        /// No valid token, so no call can be made.
        NoToken = "no-token",
        /// The token lacks a permission that calls need.
        RolesMissing = "roles-missing",
        /// Defender answers 401.
        UpstreamUnauthorized = "upstream-unauthorized",
        /// Defender answers 403.
        UpstreamForbidden = "upstream-forbidden",
        /// Defender answers 5xx, or not at all.
        UpstreamFailing = "upstream-failing",
        /// None of the upstream's hosts can be used.
        NoRegion = "no-region",
        /// The shared store does not answer.
        StoreLost = "store-lost",
        /// The shared store answers too late for answers to be shared.
        StoreSlow = "store-slow",
        /// Some of the upstream's hosts cannot be used.
        RegionLost = "region-lost",
        /// The token is valid, and cannot be renewed.
        SignInFailing = "sign-in-failing",
        /// The sign-in certificate is good for two more weeks, or less.
        CertificateExpiring = "certificate-expiring",
        /// The shared store may remove the ledger when its memory is full.
        StoreEvicting = "store-evicting",
        /// The quota's state file cannot be written, or is used by another gateway as well.
        StateFile = "state-file",
        /// Messages of the shared store do not come.
        StoreUnheard = "store-unheard",
        /// Replicas that share the quota go by different limits.
        LimitsDiffer = "limits-differ",
        /// The upstream ordered a pause.
        Paused = "paused",
        /// Callers ask for more than a window allows.
        QuotaSpent = "quota-spent",
        /// Callers ask for more than the pace allows that spreads the longest window.
        Paced = "paced",
        /// Requests are refused for want of memory.
        MemoryFull = "memory-full",
        /// As many callers' connections are open as may be.
        ConnectionsFull = "connections-full",
        /// The configuration as it is written is wrong, or its credentials bring no token.
        ConfigRefused = "config-refused",
        /// The configuration as it is written needs a restart.
        ConfigPending = "config-pending",
        /// Merging has been switched off for a while.
        MergeResting = "merge-resting",
    }
}

named_enum! {
    /// How bad a problem is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub(super) enum Severity, as_str {
        /// Callers get no answers, or soon will not.
        Critical = "critical",
        /// Less works than should.
        Warning = "warning",
        /// Worth knowing.
        Info = "info",
    }
}

impl Code {
    /// How bad it is at the worst.
    fn severity(self) -> Severity {
        if self <= Self::StoreLost {
            Severity::Critical
        } else if self <= Self::ConfigRefused {
            Severity::Warning
        } else {
            Severity::Info
        }
    }

    /// How long it stays in the list after it was last seen: what comes and goes with every request
    /// is one problem, not a hundred.
    fn linger(self) -> Duration {
        match self {
            Self::Paused
            | Self::QuotaSpent
            | Self::Paced
            | Self::MemoryFull
            | Self::ConnectionsFull
            | Self::UpstreamUnauthorized
            | Self::UpstreamForbidden
            | Self::UpstreamFailing
            // A store that is full is found to be so every 20 s or so.
            | Self::StoreSlow => Duration::from_mins(1),
            // One that fails every other time is lost all the while.
            Self::StoreLost => Duration::from_secs(10),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: Code, count: u64) -> Problem {
        Problem::new(code, "", "").counting(count)
    }

    #[tokio::test(start_paused = true)]
    async fn a_problem_keeps_its_beginning_and_the_worst_comes_first() {
        let (mut standing, start) = (BTreeMap::new(), Instant::now());
        let second = Duration::from_secs(1);
        update(&mut standing, vec![problem(Code::ConfigPending, 1)], start);
        let found = vec![problem(Code::ConfigPending, 2), problem(Code::NoToken, 1)];
        update(&mut standing, found, start + second);
        let list: Vec<_> = standing.values().collect();
        assert_eq!((list[0].problem.code, list[0].since), (Code::NoToken, start + second));
        assert_eq!((list[1].problem.count, list[1].since), (2, start));
        update(&mut standing, Vec::new(), start + second * 2);
        assert!(standing.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_and_goes_with_every_request_is_one_problem() {
        let (mut standing, start) = (BTreeMap::new(), Instant::now());
        for second in 0..100 {
            let found = (second % 10 == 0).then(|| problem(Code::Paced, 1));
            let now = start + Duration::from_secs(second);
            update(&mut standing, found.into_iter().collect(), now);
            assert_eq!(standing[&Code::Paced].since, start);
        }
        let later = start + Duration::from_secs(90) + Code::Paced.linger();
        update(&mut standing, Vec::new(), later);
        assert_eq!(standing.len(), 1);
        update(&mut standing, Vec::new(), later + Duration::from_millis(1));
        assert!(standing.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_that_follow_each_other_are_one_problem_and_between_them_none_is_foretold() {
        let (mut standing, start) = (BTreeMap::new(), Instant::now());
        for second in 0..200 {
            let found = (second % 21 == 0).then(|| Problem::new(Code::Paused, "for another 1 s", ""));
            let is_over = found.is_none();
            update(
                &mut standing,
                found.into_iter().collect(),
                start + Duration::from_secs(second),
            );
            let known = &standing[&Code::Paused];
            assert_eq!((known.since, known.problem.message == PAUSE_OVER), (start, is_over));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_just_been_critical_stays_so_and_not_for_ever() {
        let (mut standing, start) = (BTreeMap::new(), Instant::now());
        for (second, found, said) in [
            (0, Severity::Warning, Severity::Warning),
            (1, Severity::Critical, Severity::Critical),
            (2, Severity::Warning, Severity::Critical),
            (61, Severity::Warning, Severity::Critical),
            (62, Severity::Warning, Severity::Warning),
            (63, Severity::Warning, Severity::Warning),
        ] {
            let problem = problem(Code::UpstreamFailing, 2).at_most(found);
            update(&mut standing, vec![problem], start + Duration::from_secs(second));
            let severity = standing[&Code::UpstreamFailing].problem.severity;
            assert_eq!(severity, said, "after {second} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_comes_and_goes_is_one_problem() {
        let (mut standing, start) = (BTreeMap::new(), Instant::now());
        for second in 0..60 {
            let found = (second % 7 == 0).then(|| problem(Code::StoreLost, 1));
            let now = start + Duration::from_secs(second);
            update(&mut standing, found.into_iter().collect(), now);
            assert_eq!(standing[&Code::StoreLost].since, start);
        }
    }

    #[test]
    fn every_problem_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> = Code::ALL.map(Code::as_str).into_iter().collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.is_sorted());
    }
}
