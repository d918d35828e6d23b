//! `[store]`: what replicas share.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::Reader;
use crate::store::Address;

static URL: Key = Key::new(
    "store",
    "url",
    Kind::Text(
        "\"\" for none, or redis://USER:PASSWORD@HOST:PORT/DATABASE, redis+sentinel://HOST,HOST,HOST/GROUP, \
         redis+cluster://HOST,HOST or redis+unix:///PATH; rediss for TLS",
    ),
    DefaultValue::Text(""),
    "The Redis or Valkey server through which replicas share one quota; empty: this process alone. May hold a user and password, \
     which are never shown. Sentinels that have a password of their own: `?sentinel_user=…&sentinel_password=…`.",
)
.hidden();
static PREFIX: Key = Key::new(
    "store",
    "prefix",
    Kind::Text("1 to 64 letters, digits, \".\", \"_\", \"-\" and \":\""),
    DefaultValue::Text("defender-gateway"),
    "What the names of all keys in the store begin with. Tenant and application follow by themselves.",
);
static TIMEOUT: Key = Key::new(
    "store",
    "timeout",
    Kind::Duration(Duration::from_millis(1), Duration::from_secs(10)),
    DefaultValue::Text("250ms"),
    "The longest wait for one answer of the store.",
);

static ANSWERS: Key = Key::new(
    "store",
    "answers",
    Kind::Flag,
    DefaultValue::Flag(true),
    "Whether replicas share answers through the store too: an answer that one of them has is not asked for again, and a request that \
     several have at once is sent once. Whoever may read the store can then read scan history.",
);
static ANSWER_TIMEOUT: Key = Key::new(
    "store",
    "answer_timeout",
    Kind::Duration(Duration::from_millis(1), Duration::from_secs(10)),
    DefaultValue::Text("100ms"),
    "The longest that a request which memory cannot answer waits for the store to say what it has; then it is asked upstream, and the \
     store is left alone for a while.",
);

static PASSWORD_FILE: Key = Key::new(
    "store",
    "password_file",
    Kind::Text("the path of a readable file, or \"\" for none"),
    DefaultValue::Text(""),
    "A file that holds only the store's password, instead of one in `url`. Read at every connection, so it may change.",
);
static CA_FILE: Key = Key::new(
    "store",
    "ca_file",
    Kind::Text("the path of a PEM file, or \"\" for the built-in roots"),
    DefaultValue::Text(""),
    "The only certificate authorities to trust for the store, instead of the built-in ones. Read at every connection.",
);
static CERTIFICATE_FILE: Key = Key::new(
    "store",
    "certificate_file",
    Kind::Text("the path of a readable file, or \"\" for none"),
    DefaultValue::Text(""),
    "A PEM file with a certificate and its private key, for a store that lets in only who shows one. Read at every connection.",
);

pub(super) static KEYS: &[&Key] = &[
    &URL,
    &PASSWORD_FILE,
    &CA_FILE,
    &CERTIFICATE_FILE,
    &PREFIX,
    &TIMEOUT,
    &ANSWERS,
    &ANSWER_TIMEOUT,
];

/// What replicas share.
#[derive(Clone, Debug)]
pub struct Store {
    /// The server; `None`: this process alone.
    pub address: Option<Address>,
    /// The file with the password, instead of a password in the address.
    pub password_file: Option<PathBuf>,
    /// The only authorities to trust, instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// The client certificate for a store that requires one.
    pub certificate_file: Option<PathBuf>,
    /// The prefix of all keys in the store.
    pub prefix: String,
    /// The longest wait for one reply.
    pub timeout: Duration,
    /// Whether answers are shared too.
    pub answers: bool,
    /// The longest that a request waits for a shared answer.
    pub answer_timeout: Duration,
}

impl Store {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        // The error must not contain the value, which may include a password.
        let address = reader.optional(&URL, |text| Address::parse(text).map_err(|error| error.to_string()));
        let password_file = reader.line_file(&PASSWORD_FILE);
        let ca_file = reader.authorities_file(&CA_FILE);
        let certificate_file = reader.file(&CERTIFICATE_FILE);
        let prefix = reader.parsed(&PREFIX, prefix);
        let timeout = reader.duration(&TIMEOUT);
        let answers = reader.flag(&ANSWERS);
        let answer_timeout = reader.duration(&ANSWER_TIMEOUT);
        Some(Self {
            address: address.ok()?,
            password_file: password_file.ok()?,
            ca_file: ca_file.ok()?,
            certificate_file: certificate_file.ok()?,
            prefix: prefix?,
            timeout: timeout?,
            answers: answers?,
            answer_timeout: answer_timeout?,
        })
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.into())
    } else {
        Err("cannot begin a name in the store".into())
    }
}
