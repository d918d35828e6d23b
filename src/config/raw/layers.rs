//! Combines the layers.

use std::collections::BTreeMap;

use super::node::Node;
use super::{file, variables};
use crate::config::config_error::ConfigError;
use crate::config::env::Environment;
use crate::config::key::{Key, keys};

/// The value of every key with the highest precedence. It has no `Debug`, because it may contain a
/// password.
#[derive(Clone)]
pub(in crate::config) struct RawConfig {
    nodes: BTreeMap<(&'static str, &'static str), Node>,
}

impl RawConfig {
    /// Reads the file's text, if there is a file, and the environment. Unknown keys and syntax
    /// errors go to `mistakes`, deprecated keys to `notes`.
    pub(in crate::config) fn read(
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

    pub(in crate::config) fn set(&mut self, key: &'static Key, node: Node) {
        self.nodes.insert((key.section, key.name), node);
    }

    /// The value of `key`.
    pub(in crate::config) fn node(&self, key: &'static Key) -> Node {
        self.nodes
            .get(&(key.section, key.name))
            .cloned()
            .unwrap_or_else(|| Node::from(key.fallback))
    }
}
