//! When a host that says nothing, or nonsense, is left, and where the calls under way to it go.
//!
//! A call that is late by the measure of what is usual is one of two things: one at a silent host, or a slow one. To tell which, one of
//! them at a time is given up and made elsewhere, paid for, while the host is avoided and the others wait. What comes of it decides:
//!
//! * another host answers in the usual time: the late one is left, and the calls under way to it are given up and made elsewhere too;
//! * the other host is as slow: that is how long answers take now, and nobody else is disturbed;
//! * the host answers something after all: it is not silent, and the next late call is looked at anew;
//! * nothing comes from anywhere: nobody else is disturbed, since going elsewhere has not helped.
//!
//! A host that answers with what is no answer is suspected in the same way. The one invariant: nothing is given up that could not go to
//! another host that nothing is known against.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::attempt::{Patience, Retries, Try};
use crate::region::table::State;
use crate::region::{Choice, Table};

/// The least patience, also while nothing is known: callers bear it, and few answers take longer.
const LEAST: Duration = Duration::from_secs(3);

/// How many times the usual pause is borne, and how many times the longest that was seen lately.
const OF_USUAL: f64 = 2.0;
const OF_LATELY: f64 = 1.5;

/// What was seen lately was seen in this time.
const LATELY: Duration = Duration::from_mins(1);

/// Calls under way to a host that has been left have at least this long to be answered all the same.
const LEAVING: Duration = Duration::from_secs(1);

/// How long a suspected host is avoided, and an answer of another one proves it guilty.
const SUSPECTED: Duration = Duration::from_secs(10);

/// How long a suspicion that nothing has settled keeps further calls from being given up.
const UNSETTLED: Duration = Duration::from_mins(1);

/// How often it is looked whether another host can take a late call.
const LOOK: Duration = Duration::from_secs(1);

/// A host whose call, or answer, was a bad sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspicion {
    of: Sign,
    since: Instant,
}

impl Suspicion {
    /// Whether another host's answer now says something about this one.
    fn is_fresh(self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < SUSPECTED
    }
}

/// What a host is suspected for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// A call that brought nothing in the usual time.
    Silence,
    /// A response that is no answer.
    Nonsense,
}

/// The longest pause in an answer lately, whichever host it was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lately(Option<(Instant, Duration)>);

impl Lately {
    fn pause(self, now: Instant) -> Option<Duration> {
        let young = |at: &Instant| now.saturating_duration_since(*at) < LATELY;
        self.0.filter(|(at, _)| young(at)).map(|(_, pause)| pause)
    }

    fn saw(&mut self, pause: Duration, now: Instant) {
        if self.pause(now).is_none_or(|longest| pause >= longest) {
            self.0 = Some((now, pause));
        }
    }
}

/// How long an exchange with a host may stand still, of which this is known.
fn patience(usual: Option<Duration>, lately: Option<Duration>) -> Duration {
    let usual = usual.unwrap_or_default().mul_f64(OF_USUAL);
    let lately = lately.unwrap_or_default().mul_f64(OF_LATELY);
    LEAST.max(usual).max(lately)
}

/// A call that is under way to a host.
#[derive(Debug)]
pub(super) struct Watch {
    table: Table,
    index: usize,
    /// Until when the call may start elsewhere.
    deadline: Instant,
    retries: Retries,
    longest: Mutex<Option<Duration>>,
}

impl Watch {
    pub(super) fn new(table: Table, choice: &Choice, deadline: Instant, retries: Retries) -> Arc<Self> {
        Arc::new(Self {
            table,
            index: choice.index,
            deadline,
            retries,
            longest: Mutex::default(),
        })
    }

    /// For whoever makes the call.
    pub(super) fn patience(self: &Arc<Self>) -> Patience {
        let watch = Arc::clone(self);
        Patience::new(move || {
            let pause = Pause {
                watch: Arc::clone(&watch),
                begun: Instant::now(),
            };
            Box::pin(pause.over())
        })
    }

    /// The longest time in which there was no progress; `None` when the call was not sent.
    pub(super) fn longest_pause(&self) -> Option<Duration> {
        // A change is one assignment.
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time without progress. Dropped, it is over.
struct Pause {
    watch: Arc<Watch>,
    begun: Instant,
}

impl Pause {
    async fn over(self) {
        let watch = &self.watch;
        if watch.retries == Retries::Spent {
            return std::future::pending().await;
        }
        let mut news = watch.table.news();
        loop {
            news.mark_unchanged();
            let next = match watch.table.judge(watch.index, self.begun, watch.deadline) {
                Verdict::GivenUp => return,
                Verdict::LookAgain(at) => at,
            };
            tokio::select! {
                () = sleep_until(next) => {}
                // The sender is in the table, which is kept here.
                _ = news.changed() => {}
            }
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let mut longest = self.watch.longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = (*longest).max(Some(self.begun.elapsed()));
    }
}

/// What a host was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It answered with rows, and stood still for so long meanwhile, if that is known.
    Rows(Option<Duration>),
    /// It refused the question in Defender's words. That takes other times.
    Refusal(Option<Duration>),
    /// It works, but has not shown what it can do.
    Life,
    /// It said that it cannot answer.
    Unavailable,
    /// It said what is no answer.
    Nonsense,
}

/// What is to become of a call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is given up, and made elsewhere.
    GivenUp,
    /// It waits until then at least, unless there is news.
    LookAgain(Instant),
}

impl State {
    /// What is to become of a call to a host that has not moved on since `begun` and may start anew until `deadline`.
    pub(super) fn judge(&mut self, index: usize, begun: Instant, deadline: Instant, now: Instant) -> Verdict {
        let usual = self.usual(index);
        let is_left = self.hosts[index].health.was_left_since(begun, now);
        let due = begun
            + if is_left {
                usual.map_or(LEAVING, |usual| usual.max(LEAVING))
            } else {
                let most = patience(usual, self.lately.pause(now));
                // A caller who has little time left cannot wait for rare answers, but for usual ones.
                let least = LEAST.max(usual.unwrap_or_default());
                most.min(deadline.saturating_duration_since(begun).max(least))
            };
        if now < due {
            return Verdict::LookAgain(due);
        }
        if now > deadline + Try::GRACE || !self.has_other_good(index, now) {
            return Verdict::LookAgain(now + LOOK);
        }
        if is_left {
            return Verdict::GivenUp;
        }
        if let Some(suspicion) = self.suspicion(index, now) {
            return Verdict::LookAgain(suspicion.since + UNSETTLED);
        }
        // Good → suspected: this call finds out.
        self.suspect(index, Sign::Silence, now);
        Verdict::GivenUp
    }

    /// An answer of a host stood still for so long.
    pub(super) fn learn(&mut self, index: usize, pause: Option<Duration>, now: Instant) {
        if let Some(pause) = pause {
            self.hosts[index].usual.answered(pause);
            self.lately.saw(pause, now);
        }
    }

    /// A host has given an answer, after this pause if that is known.
    pub(super) fn believe(&mut self, index: usize, pause: Option<Duration>, now: Instant) {
        if self.hosts[index].suspicion.take().is_some() {
            self.hosts[index].health.acquit();
        }
        for other in 0..self.hosts.len() {
            let Some(suspicion) = self.suspicion(other, now) else {
                continue;
            };
            let most = patience(self.usual(other), None);
            let host = &mut self.hosts[other];
            host.suspicion = None;
            if suspicion.is_fresh(now) && pause.is_none_or(|pause| pause < most) {
                // Suspected → left: what it did not do can be done.
                host.health.convict(now);
            } else {
                // Suspected → good: it is as slow as others are.
                host.health.acquit();
            }
        }
    }

    /// A host has said what is no answer. When others do so too, it is the question, or it is everybody: nobody is left for it.
    pub(super) fn doubt(&mut self, index: usize, now: Instant) {
        let nonsense = |other: &usize| {
            let fresh = self.suspicion(*other, now).filter(|suspicion| suspicion.is_fresh(now));
            *other != index && fresh.is_some_and(|suspicion| suspicion.of == Sign::Nonsense)
        };
        if let Some(other) = (0..self.hosts.len()).find(nonsense) {
            self.hosts[other].suspicion = None;
            self.hosts[other].health.acquit();
        } else if self.has_other_good(index, now) {
            self.suspect(index, Sign::Nonsense, now);
        }
    }

    /// Whether another host is there that nothing is known against.
    pub(super) fn has_other_good(&self, index: usize, now: Instant) -> bool {
        let good = |other: usize| self.hosts[other].health.is_good(now) && self.suspicion(other, now).is_none();
        (0..self.hosts.len()).any(|other| other != index && good(other))
    }

    fn suspect(&mut self, index: usize, of: Sign, now: Instant) {
        self.hosts[index].suspicion = Some(Suspicion { of, since: now });
        self.hosts[index].health.avoid_until(now + SUSPECTED);
    }

    /// What a host is suspected for, if that is not settled.
    fn suspicion(&self, index: usize, now: Instant) -> Option<Suspicion> {
        let unsettled = |suspicion: &Suspicion| now.saturating_duration_since(suspicion.since) < UNSETTLED;
        self.hosts[index].suspicion.filter(unsettled)
    }

    /// The usual pause of a host, or of the slowest other one while it has not answered anything.
    fn usual(&self, index: usize) -> Option<Duration> {
        let of_others = || self.hosts.iter().filter_map(|host| host.usual.pause()).max();
        self.hosts[index].usual.pause().or_else(of_others)
    }
}
