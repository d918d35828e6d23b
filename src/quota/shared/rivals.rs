//! What the other replicas want, as the store said last.

use tokio::time::Instant;

use super::step::{self, Promised, Reply};

/// Most entries by which a replica says what it has promised; with fewer promises each one is said.
const TOLD: usize = 16;

/// Most slots of all replicas that one forecast looks at. More calls than these need not be known of.
pub(super) const LOOK_AHEAD: usize = 2000;

/// Most other replicas whose wishes are known.
const WISHES: usize = 1000;

/// Most callers that count at one of them; the script has the same limit.
const HEAVIEST: f64 = 1000.0;

/// Calls that callers were promised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Promise {
    pub(super) calls: usize,
    /// When the first of them is due.
    pub(super) first: Instant,
    /// When the last of them is due.
    pub(super) last: Instant,
}

impl Promise {
    /// These deadlines in few words, for everybody to respect.
    pub(super) fn outline(deadlines: &[(Instant, u64)]) -> Vec<Self> {
        let chunks = deadlines.chunks(deadlines.len().div_ceil(TOLD).max(1));
        let promise = |chunk: &[(Instant, u64)]| {
            let ((first, _), (last, _)) = (chunk.first()?, chunk.last()?);
            Some(Self {
                calls: chunk.len(),
                first: *first,
                last: *last,
            })
        };
        chunks.filter_map(promise).collect()
    }

    /// One call is made: the one that is due first.
    pub(super) fn redeem(promised: &mut Vec<Self>) {
        if let Some(first) = promised.first_mut() {
            first.calls -= 1;
            if first.calls == 0 {
                promised.remove(0);
            }
        }
    }

    pub(super) fn say(&self, now: Instant) -> Promised {
        (self.calls, -step::age(self.first, now), -step::age(self.last, now))
    }
}

/// What callers here were promised.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    /// By when they are due, ascending.
    pub(super) promised: Vec<Promise>,
    /// Callers are refused for want of slots.
    pub(super) turns_away: bool,
}

/// What the other replicas want.
#[derive(Clone, Debug, Default)]
pub(super) struct Rivals {
    pub(super) wishes: Vec<Wish>,
    /// By when they are due, ascending.
    pub(super) promised: Vec<Promise>,
}

/// What one of them wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// So many calls; `None`: all that it can get.
    pub(super) calls: Option<usize>,
    /// The callers who wait there.
    pub(super) weight: f64,
}

impl Rivals {
    /// Whatever the store says, a forecast is bounded by what is read here.
    pub(super) fn read(reply: &Reply, now: Instant) -> Self {
        let few = |calls: f64| usize::try_from(step::number(calls)).map_or(LOOK_AHEAD, |calls| calls.min(LOOK_AHEAD));
        let wish = |&(calls, weight): &(f64, f64)| Wish {
            calls: (calls >= 0.0).then(|| few(calls)),
            weight: weight.clamp(1.0, HEAVIEST),
        };
        let promise = |&(calls, first, last): &(usize, f64, f64)| Promise {
            calls: calls.min(LOOK_AHEAD),
            first: now + step::span(first),
            last: now + step::span(last),
        };
        Self {
            wishes: reply.wants.iter().take(WISHES).map(wish).collect(),
            promised: reply.promised.iter().take(TOLD).map(promise).collect(),
        }
    }

    /// How many of their calls have their turn before the `n`-th (from 1) of a replica of this weight: those who wait take turns, each in
    /// proportion to its callers, until it has what it wants.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "turns are few and not negative"
    )]
    pub(super) fn before(&self, n: usize, weight: f64) -> usize {
        let turns = |wish: &Wish| {
            let turns = (n as f64 * wish.weight / weight).round() as usize;
            wish.calls.map_or(turns, |calls| calls.min(turns))
        };
        self.wishes.iter().map(turns).sum()
    }

    pub(super) fn promised_calls(&self) -> usize {
        self.promised.iter().map(|promise| promise.calls).sum()
    }

    /// Whether the turns are quite other ones than `before`.
    pub(super) fn upset(&self, before: &Self) -> bool {
        let turns = |rivals: &Self| rivals.before(16, 16.0) + 1;
        let (turns, expected) = (turns(self), turns(before));
        turns * 4 > expected * 5 || turns * 5 < expected * 4
    }
}
