//! Where the configuration is.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Disk, Document, Environment, Key, Loaded, Mistakes, Settings};

/// The file that was named or once read, if one was, and the environment, which does not change.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    file: Option<PathBuf>,
    env: Arc<Environment>,
}

impl ConfigSource {
    /// `named` is the file of `--config`.
    pub fn new(named: Option<PathBuf>, env: Environment) -> Self {
        Self {
            file: named,
            env: Arc::new(env),
        }
    }

    /// Reads the file as it is now. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn find(&self) -> Result<Document, Mistakes> {
        Document::find(self.file.as_deref(), &self.env, &Disk)
    }

    /// Looks nowhere else from now on than where `document` was read, if that was a file: one that is
    /// gone for a moment is no configuration without a file.
    pub(super) fn stay_at(&mut self, document: &Document) {
        if let Some(path) = document.path() {
            self.file = Some(path.to_owned());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_read_is_missed_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        let mut source = ConfigSource::new(None, Environment::default());
        source.stay_at(&Document::default());
        assert_eq!(source.file, None, "it may still come to the usual place");
        source.stay_at(&Document::new(&path, String::new()));
        let gone = source.find().unwrap_err().to_string();
        assert!(gone.contains("there is no such file"), "{gone}");
    }
}
