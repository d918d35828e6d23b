//! Where the configuration is.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Disk, Document, Environment, Key, Loaded, Mistakes, Settings};

/// The file that was named, if one was, and the environment, which does not change.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    named: Option<PathBuf>,
    env: Arc<Environment>,
}

impl ConfigSource {
    /// `named` is the file of `--config`.
    pub fn new(named: Option<PathBuf>, env: Environment) -> Self {
        Self {
            named,
            env: Arc::new(env),
        }
    }

    /// Reads the file as it is now. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn find(&self) -> Result<Document, Mistakes> {
        Document::find(self.named.as_deref(), &self.env, &Disk)
    }

    /// What `document` says here.
    ///
    /// # Errors
    /// Every mistake, in reading order.
    pub fn resolve(&self, document: &Document) -> Result<Loaded, Mistakes> {
        document.resolve(&self.env, &Disk)
    }

    /// The same with `held` keys as they are in `running`.
    ///
    /// # Errors
    /// Every mistake, in reading order.
    pub(super) fn resolve_holding(
        &self,
        document: &Document,
        held: &[&'static Key],
        running: &Settings,
    ) -> Result<Loaded, Mistakes> {
        document.resolve_holding(held, running, &self.env, &Disk)
    }
}
