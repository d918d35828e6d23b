//! What goes to the script and comes back, and what has yet to go: what became of calls. Times are
//! microseconds, before or after the moment of the step.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::earlier;
pub(super) use crate::quota::state_lines::micros;
use crate::quota::{self, Pacing};

/// What the store runs: one script, in parts.
pub(super) const SCRIPT: &str = concat!(
    include_str!("script/prologue.lua"),
    include_str!("script/idle.lua"),
    include_str!("script/ledger.lua"),
    include_str!("script/feedback.lua"),
    include_str!("script/order.lua"),
    include_str!("script/members.lua"),
    include_str!("script/step.lua"),
);

/// A charge: its name, [`GONE`], [`FLYING`] or [`PAST`], and until when or since when.
pub(super) type Charge = (String, u8, f64);

/// What waits of a flow, is expected back, and asks again, as the script knows it: the flow's name,
/// its weight, the three counts, by when the first of those that wait can use a slot, when the first
/// are due that are expected back, and for how many more a place is kept.
pub(super) type Want = (String, u32, usize, usize, usize, Vec<i64>, Vec<i64>, usize);

/// It was taken back.
pub(super) const GONE: u8 = 0;
/// In flight; the time is how long it may still take to arrive.
pub(super) const FLYING: u8 = 1;
/// It counts as made; the time is how long ago.
pub(super) const PAST: u8 = 2;

/// One step of one replica.
#[derive(Debug, Serialize)]
pub(super) struct SyncRequest<'a> {
    #[serde(flatten)]
    pub(super) terms: &'a SyncParams,
    pub(super) epoch: &'a str,
    /// How many epochs there were, this one included, as far as this replica was told.
    pub(super) epochs: u64,
    pub(super) nonce: String,
    pub(super) call: u64,
    /// The number of the latest step in this epoch that was answered.
    pub(super) heard: u64,
    /// The number of the first charge, if one is granted.
    pub(super) next: u64,
    /// How many slots may be granted at most.
    pub(super) want: usize,
    /// Whether anything is wanted, now or soon.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) wants: bool,
    /// What waits, when that is not what the store knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flows: Option<&'a [Want]>,
    pub(super) r#gen: u64,
    pub(super) seq: u64,
    pub(super) landing: i64,
    /// How long a slot is kept for a replica that is called for it.
    pub(super) claim: i64,
    #[serde(flatten)]
    pub(super) reports: Reports,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copy: Option<LedgerSnapshot>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) leave: bool,
    /// The epoch whose times cannot be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) doubt: Option<&'a str>,
}

/// What stays the same from step to step.
#[derive(Debug, Serialize)]
pub(super) struct SyncParams {
    format: &'static str,
    /// The format whose ledger is taken over.
    before: &'static str,
    /// After so long, milliseconds, no call of a replica that was never heard of again is in any
    /// window.
    quiet: i64,
    pub(super) me: String,
    limits: Vec<Limit>,
    burst: u32,
    /// Calls leave as long as the windows have room.
    unpaced: bool,
    /// How long a charge is kept whose call is never heard of.
    attempt: i64,
    keep: i64,
    most: usize,
    /// The keys' own lifetime once the last replica has left, milliseconds.
    ttl: i64,
    lease: i64,
    window: i64,
    past: &'static str,
    longest_pause: i64,
}

#[derive(Debug, Serialize)]
struct Limit {
    calls: usize,
    window: i64,
    hold: i64,
}

impl SyncParams {
    pub(super) fn new(me: String, config: &quota::Config, timing: super::Timing, kept: Duration) -> Self {
        let limit = |limit: &quota::Limit| Limit {
            calls: limit.calls(),
            window: micros(limit.window()),
            hold: micros(limit.hold()),
        };
        let (most, longest) = config.memory();
        Self {
            format: super::FORMAT,
            before: super::BEFORE,
            quiet: micros(longest + kept) / 1000 + 1,
            me,
            limits: config.limits().iter().map(limit).collect(),
            burst: config.burst.get(),
            unpaced: config.pacing == Pacing::None,
            attempt: micros(kept),
            keep: micros(longest),
            most,
            ttl: micros((longest + kept) * 2 + timing.lease) / 1000,
            lease: micros(timing.lease),
            window: micros(timing.merge),
            past: config.unknown_past.as_str(),
            longest_pause: micros(quota::ThrottleHint::LONGEST_WAIT),
        }
    }
}

/// A 429, as the script needs to know it.
#[derive(Debug, Serialize)]
struct ThrottleHint {
    id: String,
    age: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<i64>,
}

/// A replica's copy of the ledger.
#[derive(Debug, Serialize)]
pub(super) struct LedgerSnapshot {
    /// How old it is.
    pub(super) age: i64,
    /// Who the members were; `None`: this is not the whole copy, but the charges of this replica
    /// only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) members: Option<Vec<String>>,
    /// Of which epoch the members are, and after which change of the membership: copies that say
    /// the same name the same.
    pub(super) of: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) charges: Vec<(String, u8, i64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pause: Option<i64>,
    /// How much longer the bucket holds calls back because of an unknown past.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) paced: Option<i64>,
    /// What the bucket held by now, if nothing was granted since.
    pub(super) level: f64,
}

/// What the script answers, as JSON. It leaves out what is nothing, zero or false.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of the script's answer")]
pub struct SyncReply {
    /// Nothing was done: replicas of this other format have calls in a window.
    pub(super) other: Option<String>,
    pub(super) epoch: String,
    /// The server's time. Text, because it has more digits than the script's numbers are written
    /// with.
    pub(super) now: String,
    /// Nothing was done: the epoch is another one, or the step was overtaken.
    pub(super) stale: bool,
    /// Of another epoch: how many there were with it.
    pub(super) epochs: f64,
    /// Of another epoch: the server's run.
    pub(super) server: Option<String>,
    /// Of another epoch: it began because the clock had jumped.
    pub(super) doubted: bool,
    /// The flows to whose requests slots are granted.
    pub(super) granted: Vec<String>,
    pub(super) due: Option<f64>,
    pub(super) merging: Option<f64>,
    pub(super) news: Vec<Charge>,
    pub(super) seq: f64,
    pub(super) r#gen: f64,
    /// All members.
    pub(super) members: Option<Vec<String>>,
    /// New ones, otherwise, and those that are gone.
    pub(super) joined: Vec<String>,
    pub(super) left: Vec<String>,
    /// The whole copy of the ledger is wanted.
    pub(super) bring: bool,
    /// What waits has to be told again.
    pub(super) again: bool,
    /// Calls of others in a longest window, as estimated; and from when to when none of those leave
    /// it.
    pub(super) foreign: u64,
    pub(super) holes: Vec<(f64, f64)>,
    /// The bucket does not hold calls back.
    pub(super) unpaced: bool,
    /// How much longer it does so because of an unknown past.
    pub(super) paced: Option<f64>,
    pub(super) level: f64,
    pub(super) rate: f64,
    pub(super) plan: f64,
    pub(super) pause: Option<f64>,
    /// What the others want: flows, or classes, with their weight, how many requests wait, are
    /// expected back, and ask again, and their position.
    pub(super) others: Vec<(String, f64, f64, f64, f64, f64)>,
    /// Those of them that are expected back first: the flow, its weight, when they are due, and its
    /// position. Where flows are told of as a class, these are not among them.
    pub(super) returns: Vec<(String, f64, f64, f64)>,
    /// The flows of this replica whose requests were expected here and came to another one.
    pub(super) back: Vec<String>,
    /// Where classes stand: which, where it starts, and the clock of its flows.
    pub(super) classes: Vec<(f64, f64, f64)>,
    /// The positions of the flows that this replica told of, in their order.
    pub(super) positions: Vec<f64>,
}

/// What has become of a call.
#[derive(Clone, Debug)]
pub(super) enum Report {
    /// It counts as made at that moment.
    Settled(Instant),
    /// It was not made. The flow, if it is known, whose turn it would have been.
    Refunded(Option<String>),
    /// It was refused with 429 at that moment.
    Throttled(quota::ThrottleHint, Instant),
    /// Nobody will hear of it again.
    Lost,
}

/// Calls whose end the store does not know of yet. They are kept until a step that names them was
/// taken.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub(super) struct PendingReports {
    /// By the names of the charges, in the order in which the calls ended.
    reports: Vec<(String, Report)>,
    /// How many the step under way names.
    saying: usize,
}

/// The same as a step says it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Reports {
    /// Charges that count as made, and for how long in microseconds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    settled: Vec<(String, i64)>,
    /// Charges of calls that were not made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) refunded: Vec<String>,
    /// Those of them whose flow is known, and the flow.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unused: Vec<(String, String)>,
    /// What 429s said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    throttled: Vec<ThrottleHint>,
    /// Charges of calls that nobody will hear of again. They stay, because the calls may have
    /// arrived; but a probe among them finds nothing out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lost: Vec<String>,
}

impl PendingReports {
    pub(super) fn add(&mut self, id: String, report: Report) {
        self.reports.push((id, report));
    }

    /// Our stopwatch stood still for so long after all of them.
    pub(super) fn age(&mut self, by: Duration) {
        for (_, report) in &mut self.reports {
            if let Report::Settled(at) | Report::Throttled(_, at) = report {
                *at = earlier(*at, by);
            }
        }
    }

    /// All of it, for the next step.
    pub(super) fn say(&mut self, now: Instant) -> Reports {
        self.saying = self.reports.len();
        let mut said = Reports::default();
        for (id, report) in self.reports.iter().cloned() {
            match report {
                Report::Settled(at) => said.settled.push((id, age(at, now))),
                Report::Refunded(flow) => {
                    said.unused.extend(flow.map(|flow| (id.clone(), flow)));
                    said.refunded.push(id);
                }
                Report::Throttled(hint, at) => said.throttled.push(ThrottleHint {
                    id,
                    age: age(at, now),
                    wait: hint.wait.map(micros),
                    window: hint.window.map(micros),
                }),
                Report::Lost => said.lost.push(id),
            }
        }
        said
    }

    /// The store has heard the latest step.
    pub(super) fn on_reply(&mut self) {
        self.reports.drain(..std::mem::take(&mut self.saying));
    }
}

/// How long ago `at` was; negative when it is still to come.
pub(super) fn age(at: Instant, now: Instant) -> i64 {
    if at <= now { micros(now - at) } else { -micros(at - now) }
}

/// A time that the script said; nothing it says can be negative or longer than a few days.
pub(super) fn span(micros: f64) -> Duration {
    Duration::from_secs_f64((micros / 1e6).clamp(0.0, 1e6))
}

/// A moment that the script said, from now on or before.
pub(super) fn moment(micros: f64, now: Instant) -> Instant {
    if micros < 0.0 {
        earlier(now, span(-micros))
    } else {
        now + span(micros)
    }
}

/// A counter, as the script writes numbers.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters of the script start at 0 and stay far below 2^53"
)]
pub(super) fn number(value: f64) -> u64 {
    value as u64
}
