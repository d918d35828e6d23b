//! `[callers]`: the limit of requests per caller, and shares of the quota.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::config::config_error::Origin;
use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::raw::{Entry, Node, Raw};
use crate::config::reader::{Read, Reader};
use crate::quota::Limit;

section! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Callers: "callers", "fair use in front of everything, and shares of the quota";

    /// How many requests one caller may make, cache hits included; more are answered 429. A bucket:
    /// up to twice as many can fall into one window. The ranges are those of `quota.limits`.
    limit: Option<Limit> = Key::text("REQUESTS/WINDOW, such as \"600/1m\", or \"\" for none", "").live()
        => |reader, key| reader.optional(key, str::parse);

    /// How much of the quota a caller gets beside others who wait: twice the weight, twice the
    /// share. 1 for callers without an entry. In the environment `NAME=WEIGHT,NAME=WEIGHT`.
    weights: BTreeMap<String, NonZeroU32> = Key::new(Kind::Shares(1, MAX_WEIGHT), DefaultValue::EmptyTable).live()
        => weights;
}

/// Longer lists are not written by hand and are probably a mistake.
const MAX_CALLERS: usize = 1000;

/// Shares finer than a thousandth would not be noticed.
const MAX_WEIGHT: u64 = 1000;

/// Longer names are cut off where requests are read, so an entry with one would never match.
const MAX_NAME_BYTES: usize = 64;

/// The share of each named caller, beside 1 for all others. One invalid entry makes the table
/// invalid, but the others are still checked.
fn weights(reader: &mut Reader<'_>, key: &'static Key) -> Read<BTreeMap<String, NonZeroU32>> {
    let entries = reader.entries(key)?;
    if entries.len() > MAX_CALLERS {
        let problem = format!("holds {} callers; allowed is up to {MAX_CALLERS}", entries.len());
        return Err(reader.wrong(key, problem));
    }
    let mut weights = Ok(BTreeMap::new());
    for Entry { name, origin, value } in entries {
        let path = format!("{}.{}", key.path(), name.escape_debug());
        let weight = weight(&value).map_err(|problem| reader.wrong_at(value.origin, path.clone(), problem));
        let known = check_name(&name).map_err(|problem| reader.wrong_at(origin.clone(), path.clone(), problem));
        weights = weights.and_then(|mut weights| {
            known?;
            match weights.insert(name, weight?) {
                Some(_) => Err(reader.wrong_at(origin, path, "is listed twice")),
                None => Ok(weights),
            }
        });
    }
    weights
}

fn weight(value: &Node) -> Result<NonZeroU32, String> {
    let Raw::Number(text) = &value.raw else {
        return Err(match value.origin {
            Origin::Variable(_) => format!("has no number; write NAME=NUMBER with 1 to {MAX_WEIGHT}"),
            _ => format!("is {}; write 1 to {MAX_WEIGHT}, without quotes", value.raw.shape()),
        });
    };
    let weight = text.parse().ok();
    weight
        .filter(|weight: &NonZeroU32| u64::from(weight.get()) <= MAX_WEIGHT)
        .ok_or_else(|| format!("{text} is out of range; allowed is 1 to {MAX_WEIGHT}"))
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
