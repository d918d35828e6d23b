//! `[quota]`: the upstream's limits.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use crate::config::config_error::Origin;
use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::{Reader, Sourced, word};
use crate::config::value::Limit;
use crate::quota::{Pacing, UnknownPast};

static LIMITS: Key = Key::new(
    "quota",
    "limits",
    Kind::List("1 to 4 of CALLS/WINDOW, such as \"100/1m\", with 1 to 1000000 calls and windows of 1s to 24h"),
    DefaultValue::List(&["100/1m", "1500/1h"]),
    "Calls per window, as the upstream counts them for one tenant and application. The defaults are what Microsoft documents.",
)
.live_alone();
static BURST: Key = Key::new(
    "quota",
    "burst",
    Kind::Count(1, Limit::MAX_CALLS as u64),
    DefaultValue::Count(100),
    "How many calls may leave back to back after a quiet time. More than the tightest limit has no effect.",
)
.live_alone();
static PACING: Key = Key::new(
    "quota",
    "pacing",
    Kind::Choice(&["spread", "none"]),
    DefaultValue::Text("spread"),
    "`spread`: under pressure the longest window is spread out evenly, so that an hour is not gone after 15 minutes. `none`: all \
     that the windows allow leaves at once, for a nightly export that owns the app registration; when others use it, what they are \
     estimated to use is left to them either way.",
)
.live_alone();
static SCOPE: Key = Key::new(
    "quota",
    "scope",
    Kind::Choice(&["all", "operation"]),
    DefaultValue::Text("all"),
    "Which calls the upstream counts together, which is not documented. `all`: those of all operations, the strictest reading. \
     `operation`: those of each by themselves; only where `defender-gateway probe` or Microsoft says so. After a change the calls in the \
     state file still count; a store begins with nothing remembered (see `on_unknown_past`), so stop all replicas for it.",
);
static STATE_FILE: Key = Key::new(
    "quota",
    "state_file",
    Kind::Text("a path in an existing directory, or \"\" for none"),
    DefaultValue::Text(""),
    "Where the calls made are remembered across a restart when no store is used. Without it a restart forgets up to an hour of \
     calls, and `on_unknown_past` says what to assume.",
);
static ON_UNKNOWN_PAST: Key = Key::new(
    "quota",
    "on_unknown_past",
    Kind::Choice(&["empty", "paced", "full"]),
    DefaultValue::Text("empty"),
    "What to assume at a start with nothing remembered: `empty` an unused quota, `paced` start slowly until a long window has been \
     watched, `full` wait until calls are provably free.",
);

pub(super) static KEYS: &[&Key] = &[&LIMITS, &BURST, &PACING, &SCOPE, &STATE_FILE, &ON_UNKNOWN_PAST];

/// The ledger checks all limits for each call, and every answer's `RateLimit` field lists them.
const MAX_LIMITS: usize = 4;

/// The upstream's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// 1 to 4 limits with different windows, shortest window first.
    pub limits: Vec<Limit>,
    /// How many calls may leave back to back: 1 to the calls of the tightest limit.
    pub burst: NonZeroU32,
    /// Whether the longest window is spread out under pressure.
    pub pacing: Pacing,
    /// Which calls the upstream counts together.
    pub scope: Scope,
    /// The file that keeps calls across restarts; its directory exists.
    pub state_file: Option<PathBuf>,
    /// What to assume when no earlier calls are known.
    pub on_unknown_past: UnknownPast,
}

/// Which calls the upstream counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of all operations.
    All,
    /// Those of each operation by themselves.
    Operation,
}

impl Scope {
    const WORDS: [(&'static str, Self); 2] = [("all", Self::All), ("operation", Self::Operation)];
}

const PACINGS: [(&str, Pacing); 2] = [("spread", Pacing::Spread), ("none", Pacing::None)];

const UNKNOWN_PASTS: [(&str, UnknownPast); 3] = [
    ("empty", UnknownPast::Empty),
    ("paced", UnknownPast::Paced),
    ("full", UnknownPast::Full),
];

impl Quota {
    /// How `pacing` is written in a configuration.
    pub fn pacing_word(&self) -> &'static str {
        word(&PACINGS, self.pacing)
    }

    /// How `on_unknown_past` is written in a configuration.
    pub fn unknown_past_word(&self) -> &'static str {
        word(&UNKNOWN_PASTS, self.on_unknown_past)
    }

    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let limits = reader
            .each(&LIMITS, str::parse::<Limit>)
            .and_then(|said| limits(reader, said));
        let burst = reader.count(&BURST);
        let pacing = reader.choice(&PACING, &PACINGS);
        let scope = reader.choice(&SCOPE, &Scope::WORDS);
        let state_file = reader.optional(&STATE_FILE, |text| Ok(PathBuf::from(text)));
        let on_unknown_past = reader.choice(&ON_UNKNOWN_PAST, &UNKNOWN_PASTS);

        if let Ok(Some(path)) = &state_file {
            check_state_file(reader, path);
        }
        let limits = limits?;
        Some(Self {
            burst: clamped(reader, burst?, &limits)?,
            limits,
            pacing: pacing?,
            scope: scope?,
            state_file: state_file.ok()?,
            on_unknown_past: on_unknown_past?,
        })
    }
}

/// Sorted, and without two limits for one window.
fn limits(reader: &mut Reader<'_>, mut said: Vec<Sourced<Limit>>) -> Option<Vec<Limit>> {
    if said.is_empty() || said.len() > MAX_LIMITS {
        reader.wrong(
            &LIMITS,
            format!("holds {} limits; allowed is {}", said.len(), LIMITS.kind),
        );
        return None;
    }
    said.sort_by_key(|said| said.value.window);
    let mut good = true;
    for pair in said.windows(2) {
        let [one, two] = pair else { continue };
        if one.value.window == two.value.window {
            let problem = format!("{} and {} have the same window; keep the smaller", one.value, two.value);
            reader.wrong_at(two.origin.clone(), LIMITS.path(), problem);
            good = false;
        } else if one.value.calls > two.value.calls {
            reader.note(format!(
                "quota.limits: {} can never be used up, because {} allows fewer calls in a longer time",
                one.value, two.value
            ));
        }
    }
    good.then(|| said.into_iter().map(|said| said.value).collect())
}

/// A burst above the tightest limit is not an error, so that lowering a limit needs no second
/// change.
fn clamped(reader: &mut Reader<'_>, burst: u64, limits: &[Limit]) -> Option<NonZeroU32> {
    let tightest = limits.iter().map(|limit| limit.calls).min()?;
    let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new)?;
    if burst > tightest && reader.origin(&BURST) != Origin::Default {
        reader.note(format!(
            "quota.burst: {burst} is more than the limits allow at once; {tightest} is used"
        ));
    }
    Some(burst.min(tightest))
}

/// The file itself may not exist yet.
fn check_state_file(reader: &mut Reader<'_>, path: &Path) {
    if reader.is_directory(path) {
        reader.wrong(
            &STATE_FILE,
            format!("{}: is a directory; name a file in it", path.display()),
        );
        return;
    }
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    };
    if !reader.is_directory(folder) {
        reader.wrong(&STATE_FILE, format!("{}: there is no such directory", folder.display()));
    }
}
