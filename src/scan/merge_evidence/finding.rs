//! What has been found out, for people.

use std::fmt;
use std::time::Duration;

use crate::scan::{Endpoint, MergeRecord};

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
