//! The list of sections, in the order of the reference.

use super::{admin, cache, callers, credentials, defender, definitions, merge, queue, quota, server, store, telemetry};
use crate::config::key::Key;

/// A TOML table of the configuration.
pub(in crate::config) struct Section {
    /// Its name in brackets.
    pub(in crate::config) name: &'static str,
    /// What it is about, for the reference.
    pub(in crate::config) doc: &'static str,
    /// Its keys.
    pub(in crate::config) keys: &'static [&'static Key],
}

/// All sections.
pub(in crate::config) static SECTIONS: [Section; 12] = [
    Section {
        name: "server",
        doc: "the listener that callers use",
        keys: server::KEYS,
    },
    Section {
        name: "admin",
        doc: "health, metrics and status",
        keys: admin::KEYS,
    },
    Section {
        name: "defender",
        doc: "the upstream",
        keys: defender::KEYS,
    },
    Section {
        name: "credentials",
        doc: "how the gateway signs in",
        keys: credentials::KEYS,
    },
    Section {
        name: "quota",
        doc: "what the upstream allows",
        keys: quota::KEYS,
    },
    Section {
        name: "queue",
        doc: "how requests wait for their turn",
        keys: queue::KEYS,
    },
    Section {
        name: "callers",
        doc: "fair use in front of everything, and shares of the quota",
        keys: callers::KEYS,
    },
    Section {
        name: "cache",
        doc: "answers kept in memory",
        keys: cache::KEYS,
    },
    Section {
        name: "definitions",
        doc: "what passes of scan definitions",
        keys: definitions::KEYS,
    },
    Section {
        name: "merge",
        doc: "one upstream call for the ids of several callers",
        keys: merge::KEYS,
    },
    Section {
        name: "store",
        doc: "what replicas share",
        keys: store::KEYS,
    },
    Section {
        name: "telemetry",
        doc: "logs and traces",
        keys: telemetry::KEYS,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_stands_in_its_own_section() {
        for section in &SECTIONS {
            for key in section.keys {
                assert_eq!(key.section, section.name, "{}", key.name);
            }
        }
    }
}
