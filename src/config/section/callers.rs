//! `[callers]`: fair use in front of everything.

use crate::config::key::{Fallback, Key, Kind};
use crate::config::reader::Reader;
use crate::config::value::Limit;

static LIMIT: Key = Key::new(
    "callers",
    "limit",
    Kind::Text("REQUESTS/WINDOW, such as \"600/1m\", or \"\" for none"),
    Fallback::Text(""),
    "How many requests one caller may make, cache hits included; more are answered 429. A bucket: up to twice as many can fall into \
     one window.",
);

pub(super) static KEYS: &[&Key] = &[&LIMIT];

/// Fair use in front of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callers {
    /// Requests per caller; `None`: as many as they like.
    pub limit: Option<Limit>,
}

impl Callers {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let limit = reader.optional(&LIMIT, str::parse).ok()?;
        Some(Self { limit })
    }
}
