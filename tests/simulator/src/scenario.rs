//! Scenario files: a simulator's settings, and what happens when, in TOML.
//!
//! Every key is optional; what is absent stays as it is in [`Config`], but of a `[history]` that is
//! there, what is absent has its default. Unknown keys are refused.
//! Durations carry a unit (`us`, `ms`, `s`, `m`, `h`). Three examples are in `tests/data/sim/`.
//!
//! ```toml
//! seed = 1                          # decides all that is left to chance
//!
//! [quota]
//! limits = ["100/1m", "1500/1h"]    # over all regions together
//! scope = "all"                     # all | operation: which calls count together
//! shape = "sliding-log"             # anchored | aligned | sliding-log | token-bucket
//! rejected = "count"                # count | ignore: whether refused calls use up quota
//! retry_after = "seconds"           # seconds | date | absent: the header of a 429
//! message = "with-seconds"          # with-seconds | without-seconds | absent: its text
//!
//! [history]
//! casing = "metadata"               # metadata (camelCase, as the service) | documented
//! order = "newest-first"            # newest-first | as-requested | by-id
//! unknown = "no-rows"               # no-rows | not-found
//! matching = "ignore-case"          # ignore-case | exact | dotnet: GUIDs in every form that .NET reads
//! duplicates = "once"               # once | each
//! page_size = 10000                 # most rows in one answer
//! next_link = "present"             # present | absent | skip-token | custom: whether and how an answer that is cut off says so
//! layout = "compact"                # compact | spaced | pretty | crlf: how answers are written
//! envelope = "documented"           # documented | reversed | extended: the members around the rows
//! age = "20s"                       # absent: no cache in front of the service says how old its answers are
//! max_ids = 1000                    # absent: any number
//! definitions = 55                  # how many the tenant has
//! agents = 7                        # and how many scanners
//! entity = "bare"                   # bare | wrapped: how one of them is answered
//! running = false                   # whether the newest session of each definition still runs
//! session_top = "taken"             # taken | refused: $top in history by session
//! trimmed_times = false             # whether times in rows end without the zeros of their fraction
//! secrets = false                   # whether definitions show how scanners sign in
//!
//! [sign_in]
//! latency = "20ms"
//! token_lifetime = "3599s"
//! refresh_in = "30m"                # absent: not said
//! roles = ["Machine.Read.All"]
//! faults = [{ kind = "refuse", code = 7000215, times = 1 }]
//!
//! [[regions]]                       # replaces the default regions
//! name = "eu"
//! latency = "12ms"                  # round trip
//! jitter = "2ms"
//! faults = [{ kind = "status", status = 503, share = 0.01 }, { kind = "black-hole", times = 2 }]
//!
//! [[events]]
//! at = "10s"                        # after the start
//! action = "shut"                   # see below
//! region = "eu"
//! ```
//!
//! **A fault** happens always, to a `share` of the calls (0 to 1), or to the next so many `times`.
//! The first of a list that happens wins.
//!
//! | at a region | needs | | at sign-in | needs |
//! |---|---|---|---|---|
//! | `status` | `status` | | `refuse` | `code`, a documented AADSTS number |
//! | `throttle` | `wait` | | `throttle` | |
//! | `busy` | `wait` (not named if absent) | | `status` | `status` |
//! | `no-licence` | | | `hang` | |
//! | `black-hole` | | | `cut` | |
//! | `cut` | | | `rubbish` | |
//! | `cut-mid-body` | | | `no-token` | |
//! | `slow-head` | `over` | | `redirect` | |
//! | `slow-body` | `over` | | `slow` | `over` |
//! | `rubbish` | | | | |
//! | `redirect` | | | | |
//! | `portal` | | | | |
//! | `empty` | | | | |
//! | `error-in-ok` | | | | |
//! | `wrong-type` | | | | |
//! | `page` | `status` | | | |
//! | `refused-stream` | | | | |
//! | `http1-required` | | | | |
//!
//! `throttle` is the 429 of the quota, in the form that `[quota]` says; `busy` is one that names no
//! limit. A storm is either of them, put there by one event and taken away by another.
//!
//! **An event**'s `action` is one of
//!
//! | action | takes |
//! |---|---|
//! | `latency` | `region`, `latency`, `jitter` (none if absent) |
//! | `faults` | `region` (all if absent), `faults` (an empty list mends) |
//! | `shut`, `open` | `region` |
//! | `cut-connections` | `region` (all, and sign-in, if absent) |
//! | `limits` | `limits`, `shape` |
//! | `sign-in` | `faults` (an empty list mends) |
//! | `revoke-tokens`, `scan` | |
//! | `other-calls` | `calls`: the number of calls by another client with the same app registration |
//! | `neighbour` | `per_hour`: the rate of another client, which calls at random moments from then on |

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;

use super::control::Event;
use super::fault::{Plan, SignInFault};
use super::history::History;
use super::limit::{Limit, Rejected, Scope, Shape};
use super::{Config, Message, Region, RetryAfter, span};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    seed: Option<u64>,
    quota: Quota,
    history: Option<History>,
    sign_in: SignIn,
    regions: Vec<Region>,
    events: Vec<Spanned<Written>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Quota {
    limits: Option<Vec<Limit>>,
    scope: Option<Scope>,
    shape: Option<Shape>,
    rejected: Option<Rejected>,
    retry_after: Option<RetryAfter>,
    message: Option<Message>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SignIn {
    #[serde(deserialize_with = "span::optional")]
    latency: Option<Duration>,
    #[serde(deserialize_with = "span::optional")]
    token_lifetime: Option<Duration>,
    #[serde(deserialize_with = "span::optional")]
    refresh_in: Option<Duration>,
    roles: Option<Vec<String>>,
    faults: Option<Plan<SignInFault>>,
}

/// An event. Which other keys there are depends on its action.
#[derive(Debug, Deserialize)]
struct Written {
    #[serde(deserialize_with = "span::deserialize")]
    at: Duration,
    action: String,
    #[serde(flatten)]
    keys: toml::Table,
}

/// Why a scenario is invalid, and where.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ScenarioError(String);

impl Config {
    /// These settings, changed by the scenario in `text`; this module describes the format.
    ///
    /// # Errors
    /// The text is no scenario.
    pub fn with_scenario(mut self, text: &str) -> Result<Self, ScenarioError> {
        let File {
            seed,
            quota,
            history,
            sign_in,
            regions,
            events,
        } = toml::from_str(text).map_err(|error| ScenarioError(error.to_string()))?;
        put(&mut self.seed, seed);
        put(&mut self.limits, quota.limits);
        put(&mut self.scope, quota.scope);
        put(&mut self.shape, quota.shape);
        put(&mut self.rejected, quota.rejected);
        put(&mut self.throttle.header, quota.retry_after);
        put(&mut self.throttle.message, quota.message);
        put(&mut self.history, history);
        put(&mut self.sign_in.latency, sign_in.latency);
        put(&mut self.token_lifetime, sign_in.token_lifetime);
        self.sign_in.refresh_in = sign_in.refresh_in.or(self.sign_in.refresh_in);
        put(&mut self.sign_in.roles, sign_in.roles);
        put(&mut self.sign_in.faults, sign_in.faults);
        put(&mut self.regions, (!regions.is_empty()).then_some(regions));
        for (index, event) in events.into_iter().enumerate() {
            let line = text[..event.span().start].matches('\n').count() + 1;
            let Written { at, action, keys } = event.into_inner();
            let action = variant(action, keys)
                .map_err(|error| ScenarioError(format!("line {line}, event {}: {error}", index + 1)))?;
            self.schedule.push(Event { at, action });
        }
        match self.mistake() {
            Some(what) => Err(ScenarioError(format!("scenario: {what}"))),
            None => Ok(self),
        }
    }

    /// The same from a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or contains no scenario.
    pub fn with_scenario_file(self, path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ScenarioError(format!("the scenario {}: {error}", path.display())))?;
        self.with_scenario(&text)
    }
}

fn put<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// The variant that is named so, with what its keys say.
pub(super) fn variant<T: DeserializeOwned>(name: String, keys: toml::Table) -> Result<T, String> {
    let mut described = format!("{name:?}");
    if !keys.is_empty() {
        let keys: Vec<_> = keys.keys().map(String::as_str).collect();
        described = format!("{described} with {}", keys.join(", "));
    }
    let read = toml::Table::from_iter([(name, keys.into())]).try_into();
    read.map_err(|error| format!("{described}: {}", error.message()))
}
