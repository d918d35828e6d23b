//! `[store]`: what replicas share.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::key::Key;
use crate::config::reader::Reader;
use crate::store::Address;

section! {
    #[derive(Clone, Debug)]
    pub struct Store: "store", "what replicas share";

    /// The Redis or Valkey server through which replicas share one quota; empty: this process
    /// alone. May hold a user and password, which are never shown. Sentinels that have a password
    /// of their own: `?sentinel_user=…&sentinel_password=…`.
    url: Option<Address> = Key::text(
        "\"\" for none, or redis://USER:PASSWORD@HOST:PORT/DATABASE, redis+sentinel://HOST,HOST,HOST/GROUP, \
         redis+cluster://HOST,HOST or redis+unix:///PATH; rediss for TLS",
        "",
    ).hidden() => |reader, key| reader.optional(key, |text| Address::parse(text).map_err(|error| error.to_string()));

    /// A file that holds only the store's password, instead of one in `url`. Read at every
    /// connection, so it may change.
    password_file: Option<PathBuf> = Key::text("the path of a readable file, or \"\" for none", "")
        => Reader::line_file;

    /// The only certificate authorities to trust for the store, instead of the built-in ones. Read
    /// at every connection.
    ca_file: Option<PathBuf> = Key::text("the path of a PEM file, or \"\" for the built-in roots", "")
        => Reader::authorities_file;

    /// A PEM file with a certificate and its private key, for a store that lets in only who shows
    /// one. Read at every connection.
    certificate_file: Option<PathBuf> = Key::text("the path of a readable file, or \"\" for none", "")
        => Reader::file;

    /// What the names of all keys in the store begin with. Tenant and application follow by
    /// themselves; a system-assigned identity has no id that could follow, so gateways with several
    /// such identities need a prefix for each.
    prefix: String = Key::text("1 to 64 letters, digits, \".\", \"_\", \"-\" and \":\"", "defender-gateway")
        => |reader, key| reader.parsed(key, prefix);

    /// The longest wait for one answer of the store.
    timeout: Duration = Key::duration(Duration::from_millis(1), Duration::from_secs(10), "250ms") => Reader::duration;

    /// Whether replicas share answers through the store too: an answer that one of them has is not
    /// asked for again, and a request that several have at once is sent once. Whoever may read the
    /// store can then read scan history.
    answers: bool = Key::flag(true) => Reader::flag;

    /// The longest that a request which memory cannot answer waits for the store to say what it
    /// has; then it is asked upstream, and the store is left alone for a while.
    answer_timeout: Duration = Key::duration(Duration::from_millis(1), Duration::from_secs(10), "100ms")
        => Reader::duration;
}

fn prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(allowed) {
        Ok(text.into())
    } else {
        Err("cannot begin a name in the store".into())
    }
}
