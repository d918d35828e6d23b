//! What has been found out about one endpoint.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::scan::{Endpoint, SplitError};

/// What has been found out about one endpoint, as it is shown and stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MergeRecord {
    /// Grows with every change, so that the later one of two records is known.
    pub revision: u64,
    /// All comparison calls so far.
    pub calls: u32,
    /// Since the last contradiction, as the following: comparison calls that confirmed answers.
    pub confirmed_calls: u32,
    /// Answers that were the same alone and as a part of a comparison call's answer.
    pub answers: u32,
    /// Neighbouring rows in these answers, which confirm their order.
    pub pairs: u32,
    /// Those of them with different ids.
    pub mixed_pairs: u32,
    /// The most ids in a comparison call that confirmed answers.
    pub ids: usize,
    /// The most rows in the answer to such a call.
    pub rows: usize,
    /// How often merging was contradicted.
    pub contradictions: u32,
    /// What contradicted it last.
    pub contradiction: Option<SplitError>,
}

/// Which requests may share a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Allowed {
    /// None, and no request may be answered with a part of another one's answer.
    NoParts,
    None,
    /// Those for one id, among whose rows there are none of another id.
    OneId,
    All,
}

impl MergeRecord {
    /// The most comparison calls for one operation.
    pub const MOST_CALLS: u32 = 10;

    /// No comparison call begins after this many: it may move to another host twice, and is paid
    /// for each time.
    pub(super) const LAST_CALL: u32 = Self::MOST_CALLS - 3;

    /// What has to be confirmed before requests are merged. Two calls, so that neither chance nor a
    /// cache in front of the upstream decides.
    const CONFIRMED_CALLS: u32 = 2;
    const ANSWERS: u32 = 10;
    const PAIRS: u32 = 16;

    /// Whether requests are merged.
    pub fn is_proven(&self) -> bool {
        self.allowed() > Allowed::None
    }

    /// Whether no comparison call will be made any more.
    pub fn is_exhausted(&self) -> bool {
        self.calls > Self::LAST_CALL
    }

    pub(super) fn allowed(&self) -> Allowed {
        let is_proven =
            self.confirmed_calls >= Self::CONFIRMED_CALLS && self.answers >= Self::ANSWERS && self.pairs >= Self::PAIRS;
        if !is_proven && self.contradiction == Some(SplitError::Different) {
            Allowed::NoParts
        } else if !is_proven {
            Allowed::None
        } else if self.mixed_pairs < Self::PAIRS {
            Allowed::OneId
        } else {
            Allowed::All
        }
    }

    /// Forgets what was confirmed.
    pub(super) fn contradict(&mut self, contradiction: SplitError) {
        *self = Self {
            revision: self.revision + 1,
            calls: self.calls,
            contradictions: self.contradictions + 1,
            contradiction: Some(contradiction),
            ..Self::default()
        };
    }
}

/// What has been found out about an endpoint. It is written as a sentence.
#[derive(Clone, Copy, Debug)]
pub struct MergeFinding {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What has been found out.
    pub record: MergeRecord,
    /// After a contradiction: how much longer nothing is compared; `None` when nothing will be.
    pub pause: Option<Duration>,
}

impl MergeFinding {
    /// The state in one word, or two.
    pub fn state(&self) -> &'static str {
        if self.record.is_proven() {
            "merging"
        } else if self.record.contradiction.is_some() || self.record.is_exhausted() {
            "not-merging"
        } else {
            "comparing"
        }
    }
}

impl fmt::Display for MergeFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MergeRecord {
            calls,
            answers,
            ids,
            rows,
            ..
        } = self.record;
        if self.record.is_proven() {
            return write!(
                f,
                "merged: {answers} answers, compared with those to up to {ids} ids and {rows} rows at once, were the same"
            );
        }
        match self.record.contradiction {
            Some(contradiction) => write!(f, "not merged: {contradiction}")?,
            None => write!(f, "not merged: {answers} answers were compared")?,
        }
        write!(f, "; {calls} of {} comparison calls are used", MergeRecord::MOST_CALLS)?;
        match self.pause {
            _ if self.record.is_exhausted() => f.write_str(", and no more are made"),
            Some(pause) if !pause.is_zero() => write!(f, ", the next in {} min", pause.as_secs().div_ceil(60)),
            _ => Ok(()),
        }
    }
}
