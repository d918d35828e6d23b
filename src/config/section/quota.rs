//! `[quota]`: the upstream's limits.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use crate::config::config_error::Origin;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader, Recorded};
use crate::config::value::MAX_CALLS;
use crate::quota::{Limit, Pacing, UnknownPast};
use crate::telemetry::named_enum;

section! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Quota: "quota", "what the upstream allows";

    /// Calls per window, as the upstream counts them for one tenant and application. The defaults
    /// are what Microsoft documents. A window has whole seconds.
    limits: Vec<Limit> = Key::list(
        "1 to 4 of CALLS/WINDOW, such as \"100/1m\", with 1 to 1000000 calls and windows of 1s to 24h",
        &["100/1m", "1500/1h"],
    ).live_alone() => limits;

    /// How many calls may leave back to back after a quiet time. More than the tightest limit has
    /// no effect.
    burst: NonZeroU32 = Key::count(1, MAX_CALLS as u64, 100).live_alone() => burst;

    /// `spread`: under pressure the longest window is spread out evenly, so that an hour is not
    /// gone after 15 minutes. `none`: all that the windows allow leaves at once, for a nightly
    /// export that owns the app registration; when others use it, what they are estimated to use is
    /// left to them either way.
    pacing: Pacing = Key::choice(&Pacing::NAMES, "spread").live_alone()
        => |reader, key| reader.choice(key, &Pacing::ALL);

    /// Which calls the upstream counts together, which is not documented. `all`: those of all
    /// operations, the strictest reading. `operation`: those of each by themselves; only where
    /// `defender-gateway probe` or Microsoft says so. After a change the calls in the state file
    /// still count; a store begins with nothing remembered (see `on_unknown_past`), so stop all
    /// replicas for it.
    scope: Scope = Key::choice(&Scope::NAMES, "all") => |reader, key| reader.choice(key, &Scope::ALL);

    /// Where the calls made are remembered across a restart when no store is used. Without it a
    /// restart forgets up to an hour of calls, and `on_unknown_past` says what to assume. With
    /// `scope = "operation"` each operation has a file of its own, this name with a point and the
    /// operation's behind it. One file belongs to one gateway: two that run with the same file do
    /// not see each other's calls, and each spends the whole quota. The second reports the problem
    /// `state-file` after five minutes.
    state_file: Option<PathBuf> = Key::text("a path in an existing directory, or \"\" for none", "") => state_file;

    /// What to assume at a start with nothing remembered: `empty` an unused quota, `paced` start
    /// slowly until a long window has been watched, `full` wait until calls are provably free.
    on_unknown_past: UnknownPast = Key::choice(&UnknownPast::NAMES, "empty")
        => |reader, key| reader.choice(key, &UnknownPast::ALL);
}

named_enum! {
    /// Which calls the upstream counts together.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Scope, as_str {
        /// Those of all operations.
        All = "all",
        /// Those of each operation by themselves.
        Operation = "operation",
    }
}

/// The ledger checks all limits for each call, and every answer's `RateLimit` field lists them.
const MAX_LIMITS: usize = 4;

/// Shortest window first, and without two limits for one window.
fn limits(reader: &mut Reader<'_>, key: &'static Key) -> Read<Vec<Limit>> {
    let mut said = reader.each(key, str::parse::<Limit>)?;
    if said.is_empty() || said.len() > MAX_LIMITS {
        let problem = format!("holds {} limits; allowed is {}", said.len(), key.kind);
        return Err(reader.wrong(key, problem));
    }
    said.sort_by_key(|said| said.value.window());
    let mut is_valid = true;
    for pair in said.windows(2) {
        let [one, two] = pair else { continue };
        if one.value.window() == two.value.window() {
            let problem = format!("{} and {} have the same window; keep the smaller", one.value, two.value);
            reader.wrong_at(two.origin.clone(), key.path(), problem);
            is_valid = false;
        } else if one.value.calls() > two.value.calls() {
            reader.note(format!(
                "quota.limits: {} can never be used up, because {} allows fewer calls in a longer time",
                one.value, two.value
            ));
        }
    }
    let limits = said.into_iter().map(|said| said.value).collect();
    if is_valid { Ok(limits) } else { Err(Recorded) }
}

/// At most the tightest limit. A burst above it is not an error, so that lowering a limit needs no
/// second change.
fn burst(reader: &mut Reader<'_>, key: &'static Key) -> Read<NonZeroU32> {
    let burst: NonZeroU32 = reader.count(key)?;
    let limits = limits(reader, &key::limits)?;
    let tightest = limits.iter().map(Limit::exact_calls).min().unwrap_or(burst);
    if burst > tightest && reader.origin(key) != Origin::Default {
        reader.note(format!(
            "quota.burst: {burst} is more than the limits allow at once; {tightest} is used"
        ));
    }
    Ok(burst.min(tightest))
}

/// The directory has to exist, the file itself need not.
fn state_file(reader: &mut Reader<'_>, key: &'static Key) -> Read<Option<PathBuf>> {
    let Some(path) = reader.optional(key, |text| Ok(PathBuf::from(text)))? else {
        return Ok(None);
    };
    if reader.is_directory(&path) {
        return Err(reader.file_wrong(key, &path, "is a directory; name a file in it"));
    }
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => &path,
    };
    if !reader.is_directory(folder) {
        return Err(reader.file_wrong(key, folder, "there is no such directory"));
    }
    Ok(Some(path))
}
