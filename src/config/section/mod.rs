//! The sections: each declares its keys with everything about them, its values, and the rules
//! between them, in a file of its own, or, where it has few, here.
//!
//! A new key is one entry in its section, a new section a file and a line in [`Resolved`].

use super::key::Section;
use super::reader::{Read, Reader};
use super::settings::Settings;

pub use credentials::{Credentials, TokenProxy, TrustedRoots};
pub use defender::Proxy;
pub use merge::Merging;
pub use quota::Scope;

/// Declares the keys of a section in a module `key`, each by its own name, and the `SECTION` with
/// all of them. The doc comment of a key is its text in the reference.
macro_rules! keys {
    ($section:literal, $about:literal; $($(#[doc = $doc:literal])+ $name:ident = $key:expr;)+) => {
        pub(in crate::config) static SECTION: $crate::config::key::Section = $crate::config::key::Section {
            name: $section,
            doc: $about,
            keys: &[$(&key::$name),+],
        };

        #[allow(non_upper_case_globals, reason = "each key is found by its own name")]
        pub(in crate::config) mod key {
            use super::*;

            $(pub(in crate::config) static $name: Key = $key.named($section, stringify!($name), concat!($($doc),+));)+
        }
    };
}

/// Declares a section: its keys as [`keys`] does, each with the type of its value and the function
/// that reads it, and the struct of the values, which has a `read`.
///
/// ```text
/// section! {
///     #[derive(Clone, Debug, PartialEq, Eq)]
///     pub struct Cache: "cache", "answers kept in memory";
///
///     /// How long an answer is fresh; `0s` turns the cache off.
///     ttl: Duration = Key::duration(Duration::ZERO, DAY, "30s").live() => Reader::duration;
/// }
/// ```
///
/// A value that depends on another key reads that one, too; a mistake found twice is reported once.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $Values:ident: $section:literal, $about:literal;
        $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $key:expr => $read:expr;)+
    ) => {
        keys! { $section, $about; $($(#[doc = $doc])+ $name = $key;)+ }

        #[doc = concat!("The values of `[", $section, "]`: ", $about, ".")]
        $(#[$meta])*
        pub struct $Values {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl $Values {
            /// Every key is read, even after one has failed, so that all errors are reported.
            pub(in crate::config) fn read(reader: &mut Reader<'_>) -> $crate::config::reader::Read<Self> {
                $(let $name = reader.field(&key::$name, $read);)+
                Ok(Self { $($name: $name?),+ })
            }
        }
    };
}

// Below the macros, which they use.
mod callers;
mod credentials;
mod defender;
mod queue;
mod quota;
mod server;
pub(super) mod store;
mod telemetry;

/// Lists the sections, each with the type of its values, in the order of the reference.
macro_rules! sections {
    ($($section:ident: $Values:ident,)+) => {
        /// All sections.
        pub(super) static SECTIONS: [&Section; [$(stringify!($section)),+].len()] = [$(&$section::SECTION),+];

        /// A configuration without errors, as plain values that need no further parsing.
        #[derive(Clone, Debug)]
        #[allow(missing_docs, reason = "each section says what it is about")]
        pub struct Resolved {
            $(pub $section: $section::$Values,)+
            /// The same key by key, for comparing and for people.
            pub settings: Settings,
        }

        impl Resolved {
            /// Every section is read, even after one has failed, so that all errors are reported
            /// together.
            pub(super) fn read(reader: &mut Reader<'_>) -> Read<Self> {
                $(let $section = $section::$Values::read(reader);)+
                Ok(Self {
                    $($section: $section?,)+
                    settings: reader.settings(),
                })
            }
        }
    };
}

sections! {
    server: Server,
    admin: Admin,
    defender: Defender,
    credentials: Credentials,
    quota: Quota,
    queue: Queue,
    callers: Callers,
    cache: Cache,
    definitions: Definitions,
    merge: Merge,
    store: Store,
    telemetry: Telemetry,
}

/// `[admin]`: health, metrics and status.
mod admin {
    use super::server;
    use crate::config::key::Key;
    use crate::config::reader::{Read, Reader};
    use crate::server::Address;

    section! {
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Admin: "admin", "health, metrics and status";

        /// Where health, metrics and status are served. It reveals no secret and lets other
        /// machines change nothing, so they may reach it: in Kubernetes use `[::]:9901`, because
        /// the kubelet and Prometheus connect to the pod's address.
        listen: Address = Key::text(
            "one of \"127.0.0.1:9901\", \"[::]:9901\", \"unix:/run/defender-gateway/admin.sock\"",
            "127.0.0.1:9901",
        ) => listen;

        /// Whether `POST /quitquitquit` from loopback drains and ends the program; for Jobs on
        /// clusters without native sidecars.
        quit: bool = Key::flag(false) => Reader::flag;
    }

    /// It collides with none of the server's.
    fn listen(reader: &mut Reader<'_>, key: &'static Key) -> Read<Address> {
        let listen = reader.parsed(key, str::parse::<Address>)?;
        let taken = reader.each(&server::key::listen, str::parse::<Address>)?;
        match taken.iter().find(|taken| taken.value.collides(&listen)) {
            Some(taken) => {
                let taken = &taken.value;
                let problem = format!(
                    "{listen} cannot be bound: server.listen has {taken}; callers and operators need an address each"
                );
                Err(reader.wrong(key, problem))
            }
            None => Ok(listen),
        }
    }
}

/// `[cache]`: answers kept in memory.
mod cache {
    use std::time::Duration;

    use crate::config::key::Key;
    use crate::config::reader::Reader;

    /// Scan history is a record of sessions, and one older than a week is of no use.
    const WEEK: Duration = Duration::from_hours(7 * 24);

    section! {
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Cache: "cache", "answers kept in memory";

        /// How long an answer is fresh, at most a tenth of it less, so that answers of one moment do
        /// not all end in one; `0s` turns the cache off. History changes when a scan session ends,
        /// every few hours, so minutes lose little.
        ttl: Duration = Key::duration(Duration::ZERO, Duration::from_hours(24), "30s").live() => Reader::duration;

        /// How long the history of a finished session is fresh, which does not change any more;
        /// never shorter than `ttl`. A session that may still run is fresh for `ttl`.
        finished_ttl: Duration = Key::duration(Duration::ZERO, WEEK, "6h").live() => Reader::duration;

        /// How long past its freshness an answer is still given while a new one is fetched in the
        /// background.
        stale_while_revalidate: Duration = Key::duration(Duration::ZERO, WEEK, "60s").live() => Reader::duration;

        /// How long past its freshness an answer is given when no new one can be had: upstream
        /// down, quota spent.
        stale_if_error: Duration = Key::duration(Duration::ZERO, WEEK, "10m").live() => Reader::duration;

        /// The memory that answers may take; the least used leave first. No more than the cache's
        /// share of the memory (`server.memory`): a quarter of what is divided, or up to half where
        /// this is written.
        max_size: u64 = Key::size(64 << 10, 1 << 40, "64MiB").live() => Reader::size;
    }
}

/// `[definitions]`: how scan definitions are passed on.
mod definitions {
    use crate::config::key::Key;
    use crate::config::reader::Reader;
    use crate::upstream::Secrets;

    section! {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Definitions: "definitions", "what passes of scan definitions";

        /// Whether callers get `scanAuthenticationParams` of definitions, which may hold the
        /// credentials of scanners, as the upstream gives it. `false`: it is replaced by null.
        /// `true`: an answer in which it is not null is kept nowhere, and has
        /// `Cache-Control: no-store`.
        pass_authentication_params: Secrets = Key::flag(false).live()
            => |reader, key| Ok(if reader.flag(key)? { Secrets::Passed } else { Secrets::Replaced });
    }
}

/// `[merge]`: one upstream call for the ids of several callers.
mod merge {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use crate::config::key::Key;
    use crate::config::reader::Reader;
    pub use crate::scan::Merging;

    section! {
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Merge: "merge", "one upstream call for the ids of several callers";

        /// Whether waiting requests for different ids share one upstream call. `auto`: once it has
        /// been found out that this changes no answer, by comparing answers to several ids with
        /// those to each, with ten calls of surplus quota at most. Stored rows answer requests for
        /// other lists of ids whatever is set here, unless that comparison has shown that answers
        /// differ, but not the rows of the longest answer so far, which may have been cut off (see
        /// `known_rows`).
        enabled: Merging = Key::flag_or("auto", "auto").live()
            => |reader, key| reader.flag_or(key, [Merging::On, Merging::Off, Merging::Auto]);

        /// The most ids in one shared call. The upstream's own limit is not documented.
        // With one id there is nothing to batch; the maximum is the upstream's largest page.
        max_ids: NonZeroUsize = Key::count(2, 10_000, 100).live() => Reader::count;

        /// How long a call that could leave at once waits for others at least, while others ask and
        /// slots are scarce. The emptier the bucket, the longer it waits, up to the distance of two
        /// slots; while it is full, and for a lone caller, not at all. In the queue it always
        /// gathers.
        gather: Duration = Key::duration(Duration::ZERO, Duration::from_secs(1), "5ms").live() => Reader::duration;

        /// How many rows one answer is known to hold, such as `defender-gateway probe` counts for
        /// several ids in one call; 0: nothing is known. Until a longer answer has been seen, a
        /// shared one may have been cut off, and its requests share another, smaller call.
        known_rows: usize = Key::count(0, 1_000_000, 0).live() => Reader::count;
    }
}
