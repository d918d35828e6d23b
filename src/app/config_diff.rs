//! What a new configuration has changed, as the parts need to know it.

use crate::config::{Key, Resolved, keys};

/// The keys that differ between two configurations.
#[derive(Debug)]
pub(super) struct Changes(Vec<&'static Key>);

impl Changes {
    pub(super) fn between(old: &Resolved, new: &Resolved) -> Self {
        Self(old.settings.changed(&new.settings))
    }

    /// Whether one of these keys has changed.
    pub(super) fn any(&self, paths: &[&str]) -> bool {
        for path in paths {
            debug_assert!(keys().any(|key| key.path() == *path), "no key {path}");
        }
        self.0.iter().any(|key| paths.contains(&key.path().as_str()))
    }

    /// Whether the gateway signs in differently.
    pub(super) fn sign_in(&self) -> bool {
        let mut credentials = self.0.iter().filter(|key| key.section == "credentials");
        // The cloud says where, and for what.
        self.any(&["defender.cloud"]) || credentials.any(|key| key.name != "passthrough")
    }
}
