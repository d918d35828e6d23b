//! An upstream that counts: true sliding windows over everybody's accepted calls, and storms in
//! which it refuses ours for no reason.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use defender_gateway::testing::scan::UpstreamResponse;

use super::upstream::Rng;
use super::world::{HOUR, MINUTE};

/// What a 429 says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// `Retry-After`, in seconds.
    pub(super) header: Option<u64>,
    /// "maximum allowed L per W", and whether "again in N seconds" follows.
    pub(super) window: Option<(usize, Duration)>,
    pub(super) seconds: Option<u64>,
}

impl Told {
    /// 429 and nothing else.
    pub(super) const BARE: Self = Self {
        header: None,
        window: None,
        seconds: None,
    };

    pub(super) const fn retry_after(seconds: u64) -> Self {
        Self {
            header: Some(seconds),
            ..Self::BARE
        }
    }

    pub(super) fn answer(self) -> UpstreamResponse {
        let mut headers = HeaderMap::new();
        if let Some(seconds) = self.header {
            headers.insert("retry-after", seconds.into());
        }
        let mut message = String::new();
        if let Some((calls, window)) = self.window {
            let s = window.as_secs();
            message = format!(
                "API calls quota exceeded! maximum allowed {calls} per {:02}:{:02}:{:02}",
                s / 3600,
                s / 60 % 60,
                s % 60
            );
        }
        if let Some(seconds) = self.seconds {
            let _ = write!(message, " You can send requests again in {seconds} seconds.");
        }
        UpstreamResponse {
            status: StatusCode::TOO_MANY_REQUESTS,
            headers: headers.into(),
            body: Bytes::from(message),
        }
    }
}

/// How much a refusal by the limits tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `Retry-After`, and the message of 2022.
    Whole,
    /// `Retry-After` alone.
    Header,
    /// The message of 2021: the window, no time.
    WindowOnly,
    /// Nothing.
    Bare,
}

/// The count.
#[derive(Debug)]
pub(super) struct Counting {
    form: Form,
    /// From when to when ours are refused, and what is said; at most so many.
    storms: Vec<(Instant, Instant, Told, usize)>,
    /// What share of ours is refused for no reason, what is said, and until when.
    random: Option<(f64, Told, Instant, Rng)>,
    accepted: VecDeque<Instant>,
    /// Ours that were accepted and refused, theirs that were accepted.
    pub(super) ours: Vec<Instant>,
    pub(super) refused: Vec<Instant>,
    pub(super) theirs: Vec<Instant>,
}

impl Counting {
    const LIMITS: [(usize, Duration); 2] = [(100, MINUTE), (1500, HOUR)];

    pub(super) fn new(form: Form) -> Self {
        Self {
            form,
            storms: Vec::new(),
            random: None,
            accepted: VecDeque::new(),
            ours: Vec::new(),
            refused: Vec::new(),
            theirs: Vec::new(),
        }
    }

    /// Refuses our calls from one moment to another, at most so many of them.
    pub(super) fn storm(mut self, from: Instant, to: Instant, told: Told, most: usize) -> Self {
        self.storms.push((from, to, told, most));
        self
    }

    /// Refuses this share of our calls until that moment.
    pub(super) fn at_random(mut self, share: f64, told: Told, until: Instant, seed: u64) -> Self {
        self.random = Some((share, told, until, Rng::new(seed + 99)));
        self
    }

    /// One of our calls; `None` when it is accepted.
    pub(super) fn ours(&mut self, now: Instant) -> Option<Told> {
        for (from, to, told, left) in &mut self.storms {
            if *from <= now && now < *to && *left > 0 {
                *left -= 1;
                self.refused.push(now);
                return Some(*told);
            }
        }
        let random = self.random.as_mut().filter(|(_, _, until, _)| now < *until);
        let random = random.and_then(|(share, told, _, rng)| rng.chance(*share).then_some(*told));
        let told = random.or_else(|| self.arrive(now));
        if told.is_some() {
            self.refused.push(now);
        } else {
            self.ours.push(now);
        }
        told
    }

    /// One of the neighbour's, who does not come again when refused.
    pub(super) fn theirs(&mut self, now: Instant) {
        if self.arrive(now).is_none() {
            self.theirs.push(now);
        }
    }

    fn arrive(&mut self, now: Instant) -> Option<Told> {
        while self.accepted.front().is_some_and(|at| *at + HOUR <= now) {
            self.accepted.pop_front();
        }
        let mut longest: Option<(Duration, (usize, Duration))> = None;
        for (calls, window) in Self::LIMITS {
            let Some(index) = self.accepted.len().checked_sub(calls) else {
                continue;
            };
            let left = (self.accepted[index] + window).saturating_duration_since(now);
            if !left.is_zero() && longest.is_none_or(|(before, _)| left > before) {
                longest = Some((left, (calls, window)));
            }
        }
        let Some((left, window)) = longest else {
            self.accepted.push_back(now);
            return None;
        };
        let seconds = Some(left.as_secs() + u64::from(left.subsec_nanos() > 0));
        Some(match self.form {
            Form::Whole => Told {
                header: seconds,
                window: Some(window),
                seconds,
            },
            Form::Header => Told {
                header: seconds,
                ..Told::BARE
            },
            Form::WindowOnly => Told {
                window: Some(window),
                ..Told::BARE
            },
            Form::Bare => Told::BARE,
        })
    }
}
