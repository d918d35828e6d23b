//! The sections: each file holds one section's keys, its values, and the rules between them.
//!
//! A new key is one entry in its section's file, a new section a file and a line in [`Resolved`].

mod admin;
mod cache;
mod callers;
mod credentials;
mod declare;
mod defender;
mod definitions;
mod merge;
mod queue;
mod quota;
mod server;
mod store;
mod telemetry;
mod traces;

pub use credentials::{Credential, Credentials, TokenProxy, TrustedRoots};
pub use defender::{Pin, Proxy};
pub use merge::Merging;
pub use quota::Scope;

use super::key::Section;
use super::reader::{Read, Reader};
use super::settings::Settings;

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
