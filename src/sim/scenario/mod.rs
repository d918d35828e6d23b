//! Scenario files: a simulator's settings, and what happens when, in TOML.
//!
//! Every key is optional; what is absent stays as it is in [`Config`](super::Config). Unknown keys
//! are refused. Durations carry a unit (`us`, `ms`, `s`, `m`,
//! `h`). Three examples are in `tests/data/sim/`.
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

pub mod resolve;

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::sim::history::History;
use crate::sim::limit::{Rejected, Scope, Shape};
use crate::sim::{Message, RetryAfter, span};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    seed: Option<u64>,
    quota: Quota,
    history: Option<History>,
    sign_in: SignIn,
    regions: Vec<Spanned<Region>>,
    events: Vec<Spanned<Event>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Quota {
    limits: Option<Vec<String>>,
    scope: Option<Scope>,
    shape: Option<Shape>,
    rejected: Option<Rejected>,
    retry_after: Option<RetryAfter>,
    message: Option<Message>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SignIn {
    latency: Option<Span>,
    token_lifetime: Option<Span>,
    refresh_in: Option<Span>,
    roles: Option<Vec<String>>,
    faults: Vec<Fault>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Region {
    name: String,
    #[serde(default)]
    latency: Span,
    #[serde(default)]
    jitter: Span,
    #[serde(default)]
    faults: Vec<Fault>,
}

/// A fault of any kind. Which further keys belong to which kind is checked later, where the message
/// can name both.
#[derive(Debug, Deserialize)]
struct Fault {
    kind: String,
    share: Option<f64>,
    times: Option<u32>,
    #[serde(flatten)]
    keys: toml::Table,
}

/// An event; its action takes further keys, in the same way.
#[derive(Debug, Deserialize)]
struct Event {
    at: Span,
    action: String,
    #[serde(flatten)]
    keys: toml::Table,
}

/// A duration with its unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct Span(#[serde(deserialize_with = "span::deserialize")] Duration);
