//! The values as written, with their positions, before they are checked.
//!
//! There are three layers, of which the last takes precedence: the built-in defaults, the file, the
//! environment. Other programs' variables ([`super::Key::borrowed`]) are used only for keys that
//! are absent or empty in our own layers.

mod file;
mod node;
mod variables;

pub(super) use node::{Entry, Node, Raw};

use std::collections::BTreeMap;

use super::config_error::ConfigError;
use super::env::Environment;
use super::key::{Key, keys};

/// The value of every key with the highest precedence. It has no `Debug`, because it may contain a
/// password.
#[derive(Clone)]
pub(super) struct RawConfig {
    nodes: BTreeMap<(&'static str, &'static str), Node>,
}

impl RawConfig {
    /// Reads the file's text, if there is a file, and the environment. Unknown keys and syntax
    /// errors go to `mistakes`, deprecated keys to `notes`.
    pub(super) fn read(
        text: Option<&str>,
        env: &Environment,
        mistakes: &mut Vec<ConfigError>,
        notes: &mut Vec<String>,
    ) -> Self {
        let mut written = Self {
            nodes: keys()
                .map(|key| ((key.section, key.name), Node::from(key.fallback)))
                .collect(),
        };
        if let Some(text) = text {
            file::read(text, &mut written, mistakes, notes);
        }
        variables::read(env, &mut written, mistakes, notes);
        variables::borrow(env, &mut written);
        written
    }

    pub(super) fn set(&mut self, key: &'static Key, node: Node) {
        self.nodes.insert((key.section, key.name), node);
    }

    /// The value of `key`.
    pub(super) fn node(&self, key: &'static Key) -> Node {
        self.nodes
            .get(&(key.section, key.name))
            .cloned()
            .unwrap_or_else(|| Node::from(key.fallback))
    }
}
