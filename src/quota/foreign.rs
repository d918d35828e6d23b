//! What others use of the same quota, estimated from answers of 429, and how long to wait after
//! one.
//!
//! The ledger knows our own calls only. A 429 while it has room says that others use the same app
//! registration, or that the upstream is short of something else. When it was the long window that
//! was full, n of our own calls in it mean that the others have L - n: that is the estimate. It
//! slows the pace and never stops calls, and it is adjusted as congestion control does (AIMD,
//! RFC 5681): each refusal at the estimate raises it a little, each stretch without one lowers it,
//! slowly at first and then twice as fast every twelfth of the window. An accepted call while it
//! says that the window is full refutes it, and it shrinks at once. Calls far from the limit say
//! nothing of others; so once a whole window has passed without a refusal, time alone lowers it.
//!
//! A refusal is taken for the long window's when it says so itself, when the estimate foresaw it,
//! when its end coincides with our own earliest call leaving the window, or when it comes again at
//! about the same n. Anything else only pauses: two refusals at random must not leave a trace. What
//! is believed without proof is tried, see [`super::trial`].

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::long_window::{OwnCalls, Span};
use super::pacer::overlap;
use super::throttle_hint::{Named, ThrottleHint, Which};
use super::trial::{Found, Trials};

/// Shares of the long window's limit.
mod share {
    /// How far below what fitted the pace aims after a refusal.
    pub(super) const MARGIN: f64 = 0.007;
    /// A refusal with at most this much room by the estimate was foreseen by it.
    pub(super) const FORESEEN: f64 = 0.05;
    /// Two refusals this near to each other are at about the same number of calls.
    pub(super) const NEAR: f64 = 0.03;
    /// So near to the limit one earlier refusal is enough; further away two are asked for.
    pub(super) const NEARLY_FULL: f64 = 0.8;
    /// The estimate is never larger: some calls always find out.
    pub(super) const MOST: f64 = 0.9;
    /// How much less is estimated after the first twelfth of a window without a refusal.
    pub(super) const DECAY: f64 = 1.0 / 300.0;
}

/// A refusal that names no window and is foreseen moves the estimate by this share of the
/// difference: it may have another cause.
const GAIN: f64 = 0.5;

/// Without a refusal, the estimate falls twice as fast after every such part of the long window.
const DOUBLING: u32 = 12;

/// A wait that is not named begins with this, and is never longer than a minute.
pub(super) const FIRST_PROBE: Duration = Duration::from_secs(5);
pub(super) const LAST_PROBE: Duration = Duration::from_mins(1);
/// A named wait is not shorter than this: `Retry-After: 0` must not make us call without end.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// While named waits turn out to be too short, this part of the time since then is waited.
const STRETCH: u32 = 8;

/// A wait of more than so many short windows that coincides with a return of ours is no
/// coincidence.
const LONG: u32 = 5;

/// Most pauses and refusals that are remembered.
const MOST_KEPT: usize = 8;

/// What an accepted call changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The pace has to be planned anew.
    Estimate,
    /// The refusals are over.
    Resumed {
        /// They took longer than the shortest window: what waits must not go at once.
        gently: bool,
    },
    /// One more call finds out at once whether the window was full.
    Trial,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Foreign {
    /// Calls of others in a long window, as of the latest refusal; zero when none are known.
    measured: f64,
    /// For how long the window has been as good as full since, and nothing was refused.
    calm: Duration,
    /// When it was last measured, confirmed or refuted; `None` when it is kept elsewhere.
    told: Option<Instant>,
    /// The rate that was last planned with.
    planned: f64,
    /// Times in which others made no calls, or none are known of, by when those calls would leave
    /// the window: ascending; of more than [`MOST_KEPT`] the latest.
    holes: VecDeque<(Instant, Instant)>,
    /// Refusals that may have been the long window's: when, and at how many answered calls. Refused
    /// calls are among those, so one that was in flight when another was refused raises the number:
    /// it is the accepted calls that tell how many fit.
    claims: VecDeque<(Instant, usize)>,
    run: Option<Run>,
    seen: Option<Instant>,
    trials: Trials,
}

/// Refusals one after the other.
#[derive(Clone, Copy, Debug)]
struct Run {
    since: Instant,
    /// Our own calls that were in the window.
    own: usize,
    /// Those of them that were answered by then, or later.
    answered: usize,
    refusals: usize,
    /// How many of our own calls had left the window at the latest refusal, and when the next one
    /// was to leave.
    left: usize,
    next: Option<Instant>,
    /// When a probe was first refused.
    probed: Option<Instant>,
    /// The estimate accounts for it.
    believed: bool,
    /// Another window than the long one was named.
    elsewhere: bool,
}

impl Foreign {
    /// An estimate kept elsewhere.
    pub(super) fn told(calls: u64, holes: VecDeque<(Instant, Instant)>) -> Self {
        // More than any limit there is says nothing.
        let measured = f64::from(u32::try_from(calls).unwrap_or(u32::MAX));
        Self {
            measured,
            holes,
            ..Self::default()
        }
    }

    /// Calls of others in a long window, as estimated now.
    pub(super) fn calls(&self, span: &Span, now: Instant) -> f64 {
        (self.measured - self.decay(span, now)).clamp(0.0, span.calls * share::MOST)
    }

    fn decay(&self, span: &Span, now: Instant) -> f64 {
        let aged = self.told.map(|told| now.saturating_duration_since(told + span.window));
        let calm = self.calm.max(aged.unwrap_or_default());
        let doublings = calm.as_secs_f64() * f64::from(DOUBLING) / span.window.as_secs_f64();
        span.calls * share::DECAY * (doublings.min(20.0).exp2() - 1.0)
    }

    /// How many calls the window has room for by the estimate; negative when it should be over.
    pub(super) fn room(&self, span: &Span, own: usize, now: Instant) -> f64 {
        span.calls - own as f64 - self.calls(span, now) * self.presence(span, now)
    }

    /// The share of the present window in which others made calls.
    fn presence(&self, span: &Span, now: Instant) -> f64 {
        1.0 - overlap(&self.holes, now, now + span.window).as_secs_f64() / span.window.as_secs_f64()
    }

    /// From when to when no calls of others leave the window.
    pub(super) fn holes(&self) -> &VecDeque<(Instant, Instant)> {
        &self.holes
    }

    /// The plan was made with the present estimate.
    pub(super) fn planned(&mut self, span: &Span, now: Instant) {
        self.planned = self.calls(span, now);
    }

    /// A call was answered that was in flight when another was refused.
    pub(super) fn answered_late(&mut self) {
        if let Some(run) = &mut self.run {
            run.answered += 1;
        }
    }

    /// The same of one that was refused, too.
    pub(super) fn refused_late(&mut self) {
        self.answered_late();
        self.claims.iter_mut().for_each(|(_, answered)| *answered += 1);
    }

    /// A call was refused; returns how long to wait.
    pub(super) fn refused(&mut self, span: &Span, answer: Named, own: OwnCalls, now: Instant) -> Duration {
        self.answered_late();
        let run = match self.run.as_mut() {
            Some(run) => {
                // The calls refused before are in it.
                run.left = (run.own + run.refusals).saturating_sub(own.count);
                run.next = own.next_return;
                run.refusals += 1;
                run.probed.get_or_insert(now);
                *run
            }
            None => self.first_refused(span, answer, own, now),
        };
        self.told = if run.believed { Some(now) } else { self.told };
        let wait = if let Some(wait) = answer.wait {
            let probing = run
                .probed
                .map_or(Duration::ZERO, |probed| now.saturating_duration_since(probed));
            wait.max(SHORTEST_WAIT).max((probing / STRETCH).min(LAST_PROBE))
        } else {
            let first = FIRST_PROBE.min(span.short);
            now.saturating_duration_since(run.since).clamp(first, LAST_PROBE)
        };
        wait.min(ThrottleHint::LONGEST_WAIT)
    }

    fn first_refused(&mut self, span: &Span, answer: Named, own: OwnCalls, now: Instant) -> Run {
        let believed = self.is_believable(span, answer, own, now);
        let run = Run {
            since: now,
            own: own.count,
            answered: own.answered,
            refusals: 1,
            left: 0,
            next: own.next_return,
            probed: None,
            believed,
            elsewhere: answer.window == Which::Other,
        };
        self.run = Some(run);
        self.trials.refused(believed);
        if believed {
            let long = answer.wait.filter(|wait| *wait > span.short);
            let is_sure = answer.window == Which::Long || long.is_some_and(|wait| wait > LONG * span.short);
            self.measure(span, own.count, long, is_sure, now);
            if !is_sure {
                self.trials.believed(own.count);
            }
        }
        run
    }

    /// A call was accepted during a trial.
    fn try_on(&mut self, span: &Span, own: OwnCalls, now: Instant) -> Option<Change> {
        let is_all = own.count as f64 + 1.0 >= span.calls;
        let climb = (share::MARGIN * span.calls).max(1.0);
        let found = self.trials.accepted(own.answered, is_all, climb, span.short, now)?;
        if found == Found::Room {
            *self = Self {
                trials: self.trials,
                ..Self::default()
            };
        }
        Some(if found == Found::NotYet {
            Change::Trial
        } else {
            Change::Estimate
        })
    }

    /// What a trial finds out cannot be foreseen: without one.
    pub(super) fn without_trial(&mut self) {
        self.trials.give_up();
    }

    /// Calls of others that the pace leaves room for: none in a trial.
    pub(super) fn respected(&self, span: &Span, now: Instant) -> f64 {
        if self.trials.is_under_way() {
            0.0
        } else {
            self.calls(span, now)
        }
    }

    /// Whether it is the long window that is full.
    fn is_believable(&self, span: &Span, answer: Named, own: OwnCalls, now: Instant) -> bool {
        /// Named waits are whole seconds, and may be a second too long; answers take their time.
        const ROUNDING: Duration = Duration::from_secs(3);
        match answer.window {
            Which::Other => return false,
            Which::Long if answer.wait.is_some_and(|wait| wait > span.short) => return true,
            Which::Long | Which::Unnamed => {}
        }
        let back = own.next_return;
        let makes_room_in_time = |wait: Duration| back.is_some_and(|back| now + wait <= back + ROUNDING);
        if answer.window == Which::Unnamed && answer.wait.is_some_and(|wait| !makes_room_in_time(wait)) {
            // The call of ours that leaves earlier would make room earlier.
            return false;
        }
        let coincides = |wait: Duration| back.is_some_and(|back| back <= now + wait + ROUNDING);
        let foreseen = self.calls(span, now) > 0.0 && self.room(span, own.count, now) <= share::FORESEEN * span.calls;
        let is_long = |wait: &Duration| *wait > span.short;
        foreseen || answer.wait.filter(is_long).is_some_and(coincides) || self.is_known(span, own, now)
    }

    /// Whether calls were refused before at about so many of our own, and never accepted at more
    /// since.
    fn is_known(&self, span: &Span, own: OwnCalls, now: Instant) -> bool {
        let answered = own.answered;
        let is_nearly_full = own.count as f64 >= share::NEARLY_FULL * span.calls;
        let asked = if is_nearly_full { 1 } else { 2 };
        let near = |&&(at, n): &&(Instant, usize)| {
            now.saturating_duration_since(at) < span.window && answered.abs_diff(n) as f64 <= share::NEAR * span.calls
        };
        self.claims.iter().filter(near).count() >= asked + self.trials.refuted()
    }

    /// `own` of our calls fit beside those of the others. With a long wait until room is made, the
    /// earliest call in the window was made one window before its end, and nothing is known of
    /// others before that.
    fn measure(&mut self, span: &Span, own: usize, wait: Option<Duration>, is_sure: bool, now: Instant) {
        if let Some(wait) = wait {
            self.holes.clear();
            self.holes.push_back((now, now + wait));
        }
        let presence = self.presence(span, now).max(0.25);
        let target = (span.calls - own as f64) / presence + share::MARGIN * span.calls;
        let target = target.min(share::MOST * span.calls);
        let before = self.calls(span, now);
        let is_believed = is_sure || before <= 0.0 || self.trials.are_sure();
        let gain = if is_believed { 1.0 } else { GAIN };
        self.measured = before + (target - before).max(0.0) * gain;
        (self.calm, self.told) = (Duration::ZERO, Some(now));
    }

    /// No refusal has left a trace.
    pub(super) fn is_quiet(&self) -> bool {
        self.run.is_none() && self.measured <= 0.0 && self.claims.is_empty()
    }

    /// A call was accepted while nobody waits for a probe, or as the probe.
    pub(super) fn accepted(&mut self, span: &Span, own: OwnCalls, now: Instant) -> Change {
        let margin = share::MARGIN * span.calls;
        let answered = own.answered as f64;
        self.claims.retain(|&(_, n)| answered < n as f64 + margin);
        while self.holes.front().is_some_and(|&(_, to)| to <= now) {
            self.holes.pop_front();
        }
        let seen = self.seen.replace(now);
        let Some(run) = self.run.take() else {
            if let Some(change) = self.try_on(span, own, now) {
                return change;
            }
            self.go_on(span, own.count, seen, now);
            let changed = (self.calls(span, now) - self.planned).abs() >= (span.calls / 500.0).max(0.05);
            return if changed { Change::Estimate } else { Change::None };
        };
        let is_long = now.saturating_duration_since(run.since) >= span.short;
        if is_long {
            if !run.believed {
                self.explain(span, run, now);
            }
            self.holes.push_back((run.since + span.window, now + span.window));
            if self.holes.len() > MOST_KEPT {
                self.holes.pop_front();
            }
        } else if !run.believed && !run.elsewhere && run.refusals <= 3 {
            self.claims.push_back((now, run.answered));
            if self.claims.len() > MOST_KEPT {
                self.claims.pop_front();
            }
        }
        if now.saturating_duration_since(run.since) < LONG * span.short {
            self.trials.begin(now);
        } else {
            self.trials.give_up();
        }
        // A named wait that was right is no storm.
        let gently = is_long && (run.believed || run.refusals > 1);
        Change::Resumed { gently }
    }

    /// Nothing is refused: the estimate shrinks while the window is as good as full, and at once
    /// when it should be over.
    fn go_on(&mut self, span: &Span, count: usize, seen: Option<Instant>, now: Instant) {
        let margin = share::MARGIN * span.calls;
        let room = self.room(span, count, now);
        if room < -margin {
            let estimated = self.calls(span, now);
            self.measured = estimated - ((span.calls - estimated) / 16.0).max(1.0);
            (self.calm, self.told) = (Duration::ZERO, Some(now));
        } else if room < 2.0 * margin + self.decay(span, now) {
            let most = span.window / 60;
            self.calm += seen.map_or(Duration::ZERO, |seen| now.saturating_duration_since(seen).min(most));
        }
        if self.calls(span, now) <= 0.0 {
            (self.measured, self.calm) = (0.0, Duration::ZERO);
            self.trials.forget();
        }
    }

    /// A long refusal that named no window, and ended just when our own earliest call left: then
    /// the window was full.
    fn explain(&mut self, span: &Span, run: Run, now: Instant) {
        let few = share::MARGIN * span.calls;
        if run.elsewhere || run.refusals == 1 || run.left as f64 > few || run.own as f64 >= span.calls - 2.0 * few {
            return;
        }
        // A call of ours that left in the first minute ended nothing.
        if let Some(back) = run.next.filter(|back| *back <= now && *back > run.since + span.short) {
            self.measure(span, run.own, Some(back - run.since), true, run.since);
        }
    }
}
