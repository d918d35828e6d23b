//! `[callers]`: the limit of waiting requests per caller, and shares of the quota.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::Reader;
use crate::config::value::Limit;

static LIMIT: Key = Key::new(
    "callers",
    "limit",
    Kind::Text("REQUESTS/WINDOW, such as \"600/1m\", or \"\" for none"),
    DefaultValue::Text(""),
    "How many requests one caller may make, cache hits included; more are answered 429. A bucket: up to twice as many can fall into \
     one window.",
)
.live();
static WEIGHTS: Key = Key::new(
    "callers",
    "weights",
    // Shares finer than a thousandth would not be noticed.
    Kind::Shares(1, 1000),
    DefaultValue::EmptyTable,
    "How much of the quota a caller gets beside others who wait: twice the weight, twice the share. 1 for callers without an entry. \
     In the environment `NAME=WEIGHT,NAME=WEIGHT`.",
)
.live();

pub(super) static KEYS: &[&Key] = &[&LIMIT, &WEIGHTS];

/// Longer lists are not written by hand and are probably a mistake.
const MAX_WEIGHTS: usize = 1000;

/// Longer names are cut off where requests are read, so an entry with one would never match.
const MAX_NAME_BYTES: usize = 64;

/// The limit of waiting requests per caller, and shares of the quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callers {
    /// Requests per caller; `None` without a limit.
    pub limit: Option<Limit>,
    /// The share of each named caller, 1 to 1000, beside 1 for all others.
    pub weights: BTreeMap<String, NonZeroU32>,
}

impl Callers {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let limit = reader.optional(&LIMIT, str::parse);
        let weights = weights(reader);
        Some(Self {
            limit: limit.ok()?,
            weights: weights?,
        })
    }
}

fn weights(reader: &mut Reader<'_>) -> Option<BTreeMap<String, NonZeroU32>> {
    let said = reader.shares(&WEIGHTS)?;
    if said.len() > MAX_WEIGHTS {
        let problem = format!("holds {} callers; allowed is up to {MAX_WEIGHTS}", said.len());
        reader.wrong(&WEIGHTS, problem);
        return None;
    }
    let mut weights = Some(BTreeMap::new());
    for said in said {
        let (name, weight) = said.value;
        if let Err(problem) = check_name(&name) {
            let path = format!("{}.{}", WEIGHTS.path(), name.escape_debug());
            reader.wrong_at(said.origin, path, problem);
            weights = None;
            continue;
        }
        let weight = u32::try_from(weight).ok().and_then(NonZeroU32::new);
        weights = weights.zip(weight).map(|(mut weights, weight)| {
            weights.insert(name, weight);
            weights
        });
    }
    weights
}

/// Checks that requests can carry a caller's name.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(format!(
            "a name of {} bytes matches no caller; allowed is 1 to {MAX_NAME_BYTES}",
            name.len()
        ));
    }
    if name.trim() != name || name.contains(char::is_control) {
        return Err("matches no caller: names have no space around them and no control characters".into());
    }
    Ok(())
}
