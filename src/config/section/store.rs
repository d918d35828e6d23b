//! `[store]`: what replicas share.

use std::time::Duration;

use url::Url;

use crate::config::key::{Fallback, Key, Kind};
use crate::config::reader::Reader;
use crate::secret::Secret;

static URL: Key = Key::new(
    "store",
    "url",
    Kind::Text(
        "\"\" for none, or an address that starts with redis://, rediss:// (TLS), redis+sentinel://, rediss+sentinel://, \
         redis+cluster://, rediss+cluster:// or redis+unix:///",
    ),
    Fallback::Text(""),
    "The Redis or Valkey server through which replicas share one quota; empty: this process alone. May hold a user and password, \
     which are never shown.",
)
.hidden();
static PREFIX: Key = Key::new(
    "store",
    "prefix",
    Kind::Text("1 to 64 letters, digits, \".\", \"_\", \"-\" and \":\""),
    Fallback::Text("defender-gateway"),
    "What the names of all keys in the store begin with. Tenant and application follow by themselves.",
);
static TIMEOUT: Key = Key::new(
    "store",
    "timeout",
    Kind::Duration(Duration::from_millis(1), Duration::from_secs(10)),
    Fallback::Text("250ms"),
    "The longest wait for one answer of the store.",
);

static ANSWERS: Key = Key::new(
    "store",
    "answers",
    Kind::Flag,
    Fallback::Flag(true),
    "Whether replicas share answers through the store too: an answer that one of them has is not asked for again, and a question that \
     several have at once is asked once. Whoever may read the store can then read scan history.",
);
static ANSWER_TIMEOUT: Key = Key::new(
    "store",
    "answer_timeout",
    Kind::Duration(Duration::from_millis(1), Duration::from_secs(10)),
    Fallback::Text("100ms"),
    "The longest that a request which memory cannot answer waits for the store to say what it has; then it is asked upstream, and the \
     store is left alone for a while.",
);

pub(super) static KEYS: &[&Key] = &[&URL, &PREFIX, &TIMEOUT, &ANSWERS, &ANSWER_TIMEOUT];

const SCHEMES: [&str; 7] = [
    "redis",
    "rediss",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
    "redis+unix",
];

/// What replicas share.
#[derive(Clone, Debug)]
pub struct Store {
    /// The server; `None`: this process alone. A secret, because it may hold a password.
    pub url: Option<Secret>,
    /// The server without user and password, for people.
    pub shown: Option<String>,
    /// What all names in the store begin with.
    pub prefix: String,
    /// The longest wait for one answer.
    pub timeout: Duration,
    /// Whether answers are shared too.
    pub answers: bool,
    /// The longest that a request waits for a shared answer.
    pub answer_timeout: Duration,
}

impl Store {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.optional(&URL, address);
        let prefix = reader.parsed(&PREFIX, prefix);
        let timeout = reader.duration(&TIMEOUT);
        let answers = reader.flag(&ANSWERS);
        let answer_timeout = reader.duration(&ANSWER_TIMEOUT);
        let (url, shown) = url.ok()?.unzip();
        Some(Self {
            url,
            shown,
            prefix: prefix?,
            timeout: timeout?,
            answers: answers?,
            answer_timeout: answer_timeout?,
        })
    }
}

/// The address, and what of it may be shown. The error must not hold the value.
fn address(text: &str) -> Result<(Secret, String), String> {
    let url = Url::parse(text).map_err(|error| format!("is no address ({error})"))?;
    let scheme = url.scheme();
    if !SCHEMES.contains(&scheme) {
        return Err("starts with an unknown scheme".into());
    }
    if scheme == "redis+unix" {
        if !url.path().starts_with('/') || url.host_str().is_some_and(|host| !host.is_empty()) {
            return Err("has no absolute path; write redis+unix:///run/redis.sock".into());
        }
        return Ok((Secret::new(text.into()), format!("redis+unix://{}", url.path())));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("has no host")?;
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    // The path is the database or the Sentinel group; what follows in a query could be a password.
    let shown = format!("{scheme}://{host}{port}{}", url.path());
    Ok((Secret::new(text.into()), shown))
}

fn prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.into())
    } else {
        Err("cannot begin a name in the store".into())
    }
}
