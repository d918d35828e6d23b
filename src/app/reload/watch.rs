//! Where the configuration is, and notices that it has changed.
//!
//! By looking, not by being told: a `ConfigMap` changes by a symbolic link in a folder above, an
//! editor writes another file and renames it, and network file systems tell nobody. Contents are
//! compared, so that a touched file is no change. Files that are read once are followed in the same
//! way. Of a configuration that is refused, all files that it names are looked at: one that comes
//! later mends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::{ReloadError, Reloader};
use crate::config::{Digest, Disk, Document, Environment, Loaded, Mistakes};

/// How often the file is looked at. It is small, and the kubelet takes up to a minute to deliver a
/// change anyway.
const LOOK: Duration = Duration::from_secs(2);

/// A file that is being written is left alone until it stays the same for so long.
const SETTLE: Duration = Duration::from_millis(100);

/// A configuration that was right, but could not be used, is tried again after so long: what its
/// secret proves may be granted later.
const RETRY: Duration = Duration::from_mins(1);

/// What was found at a look.
#[derive(PartialEq)]
struct Found {
    document: Result<Document, Mistakes>,
    /// Of the files that are read once; `None` while they are as they were read.
    contents: Option<Vec<Option<Digest>>>,
    /// What was wrong with it, if it was refused at the look before.
    refused: Option<Mistakes>,
}

impl Reloader {
    /// Never ends.
    pub(in crate::app) async fn follow(self, mut source: ConfigSource, document: Document, asked: Arc<Notify>) {
        source.stay_at(&document);
        let mut seen = Found {
            document: Ok(document),
            contents: None,
            refused: None,
        };
        let mut retry: Option<Instant> = None;
        loop {
            let is_asked = tokio::select! {
                () = sleep(LOOK) => false,
                () = async { sleep_until(retry.unwrap_or_else(Instant::now)).await }, if retry.is_some() => true,
                () = asked.notified() => true,
            };
            let found = self.settled(&source, seen.refused.is_some()).await;
            if !is_asked && found == seen {
                continue;
            }
            seen = found;
            if let Ok(document) = &seen.document {
                source.stay_at(document);
            }
            let result = match &seen.document {
                Ok(document) => self.reload(&source, document).await.map(drop),
                Err(mistakes) => Err(self.unreadable(mistakes.clone())),
            };
            (seen.refused, retry) = (None, None);
            match result {
                Ok(()) => seen.contents = None,
                Err(ReloadError::Mistakes(mistakes)) => seen.refused = Some(mistakes),
                Err(error) => retry = retry_in(&error).map(|wait| Instant::now() + wait),
            }
        }
    }
}

/// When what was refused is tried again although nothing changes; not before sign-in wants.
fn retry_in(refused: &ReloadError) -> Option<Duration> {
    match refused {
        ReloadError::Credentials(error) => Some(error.retry_after().map_or(RETRY, |asked| asked.max(RETRY))),
        ReloadError::Part(_) => Some(RETRY),
        ReloadError::Mistakes(_) => None,
    }
}

impl Reloader {
    /// What there is, when it has stopped changing.
    async fn settled(&self, source: &ConfigSource, was_refused: bool) -> Found {
        let mut before = self.look(source, was_refused).await;
        loop {
            sleep(SETTLE).await;
            let now = self.look(source, was_refused).await;
            if now == before {
                return now;
            }
            before = now;
        }
    }

    /// Off the threads that serve: a disk may hang.
    async fn look(&self, source: &ConfigSource, was_refused: bool) -> Found {
        let (running, source) = (self.settings(), source.clone());
        let look = move || {
            let document = source.find();
            let mistakes = || match &document {
                Ok(document) => source.resolve(document).err(),
                Err(mistakes) => Some(mistakes.clone()),
            };
            Found {
                contents: running.other_contents(&Disk),
                refused: was_refused.then(mistakes).flatten(),
                document,
            }
        };
        match tokio::task::spawn_blocking(look.clone()).await {
            Ok(found) => found,
            // The runtime ends, and this task with it.
            Err(_) => look(),
        }
    }
}

/// The file that was named or once read, if one was, and the environment, which does not change.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    file: Option<PathBuf>,
    pub(super) env: Arc<Environment>,
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

    /// Looks nowhere else from now on than where `document` was read, if that was a file: one that
    /// is gone for a moment is no configuration without a file.
    fn stay_at(&mut self, document: &Document) {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Error;
    use crate::token;

    #[test]
    fn sign_in_is_not_asked_again_before_it_wants() {
        let refused = |seconds| {
            retry_in(&ReloadError::Credentials(token::Error::Refused {
                code: token::Code::Aadsts(7_000_222),
                message: "".into(),
                retry_after: Duration::from_secs(seconds),
            }))
        };
        assert_eq!(refused(1), Some(RETRY));
        assert_eq!(refused(600), Some(Duration::from_mins(10)));
        let part = Error::of("the quota")("a reason");
        assert_eq!(retry_in(&ReloadError::Part(part)), Some(RETRY));
        assert_eq!(retry_in(&ReloadError::Mistakes(Mistakes::new(None, Vec::new()))), None);
    }

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
