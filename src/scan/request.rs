//! A checked question, in canonical form.

use std::num::NonZeroU32;
use std::sync::Arc;

/// Which path the caller used, and so which one is called upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// `/api/…`: whatever is current.
    Latest,
    /// `/api/v1.0/…`.
    V1,
}

/// A question about scan history: checked, and canonical, so that equal questions are equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    ids: Arc<[Arc<str>]>,
    top: Option<NonZeroU32>,
    skip: Option<u64>,
    version: Version,
}

impl Request {
    /// The scan definition ids: trimmed, GUIDs in lower case, without duplicates, sorted; never empty.
    #[must_use]
    pub fn ids(&self) -> &[Arc<str>] {
        &self.ids
    }

    /// `$top`: at most this many rows, 1 to 10,000.
    #[must_use]
    pub fn top(&self) -> Option<NonZeroU32> {
        self.top
    }

    /// `$skip`: leave out this many rows.
    #[must_use]
    pub fn skip(&self) -> Option<u64> {
        self.skip
    }

    /// The path version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the request has neither `$top` nor `$skip`: only such answers can be taken apart by id.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.top.is_none() && self.skip.is_none()
    }
}
