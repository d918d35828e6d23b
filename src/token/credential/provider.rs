//! Reads the credential again for every token request, so that a rotated one is used at once and
//! none stays in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Mutex;

use super::assertion;
use super::certificate::Certificate;
use super::file::Content;
use crate::secret::Secret;
use crate::token::{Credential, Error, Problem, Reason, SecretSource};

/// Tells whether the contents of the credential files have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint([u8; 32]);

/// The credential as it is sent, besides the app's id.
#[derive(Debug)]
pub(in crate::token) enum ClientAuth {
    /// `client_secret`.
    Secret(Secret),
    /// `client_assertion`.
    Assertion(Secret),
}

impl ClientAuth {
    /// The value, for sending and for checking that nothing repeats it.
    pub(in crate::token) fn secret(&self) -> &Secret {
        let (Self::Secret(secret) | Self::Assertion(secret)) = self;
        secret
    }
}

/// Where the credential is, and what was noticed about it.
#[derive(Debug)]
pub(in crate::token) struct CredentialProvider {
    pub(in crate::token) credential: Credential,
    fingerprint: Option<Fingerprint>,
    /// When the present content was first read.
    pub(in crate::token) loaded: Option<Timestamp>,
    /// The file with the secret or key, if every user of the machine can read it.
    pub(in crate::token) open_file: Option<PathBuf>,
    /// When the certificate expires.
    pub(in crate::token) expires: Option<Timestamp>,
    /// Taken while files are read: a file system that hangs holds one thread, and no more with every
    /// look.
    reading: Arc<Mutex<()>>,
}

impl CredentialProvider {
    pub(in crate::token) fn new(credential: Credential) -> Self {
        Self {
            credential,
            fingerprint: None,
            loaded: None,
            open_file: None,
            expires: None,
            reading: Arc::default(),
        }
    }

    /// Reads the credential as it is now, and makes the client authentication that is valid at
    /// `now`; a managed identity has none.
    pub(in crate::token) async fn proof(&mut self, now: Timestamp) -> Result<ClientAuth, Error> {
        let files = self.read().await;
        let fingerprint = fingerprint(&files);
        if self.loaded.is_none() || fingerprint != self.fingerprint {
            self.loaded = Some(now);
        }
        self.fingerprint = fingerprint;
        self.open_file = match &self.credential {
            // Service account tokens are short-lived and readable by design.
            Credential::WorkloadIdentity { .. } => None,
            _ => open(&files),
        };
        match &self.credential {
            Credential::ClientSecret { secret, .. } => Ok(ClientAuth::Secret(match secret {
                SecretSource::Value(secret) => secret.clone(),
                SecretSource::File(_) => line(&files)?,
            })),
            Credential::WorkloadIdentity { .. } => Ok(ClientAuth::Assertion(line(&files)?)),
            Credential::Certificate { app, .. } => {
                let certificate = Certificate::from_pem(&files)?;
                self.expires = Some(certificate.expires);
                assertion::sign(&certificate, app, now)
                    .map(ClientAuth::Assertion)
                    .ok_or_else(|| Error::unusable(Problem::FileUnusable, "the assertion cannot be signed"))
            }
            Credential::ManagedIdentity(_) => Err(Error::unavailable(Reason::Stopped)),
        }
    }

    /// Whether the files have changed since the last [`CredentialProvider::proof`].
    pub(in crate::token) async fn has_changed(&self) -> bool {
        fingerprint(&self.read().await) != self.fingerprint
    }

    /// Whether there are files to watch.
    pub(in crate::token) fn is_on_disk(&self) -> bool {
        !self.paths().is_empty()
    }

    /// Whether new contents are tried even while there is no failure. Federated tokens change all
    /// the time, merely because they age.
    pub(in crate::token) fn is_rotated_by_hand(&self) -> bool {
        !matches!(self.credential, Credential::WorkloadIdentity { .. })
    }

    fn paths(&self) -> Vec<&Path> {
        match &self.credential {
            Credential::ClientSecret { secret, .. } => match secret {
                SecretSource::Value(_) => Vec::new(),
                SecretSource::File(path) => vec![path],
            },
            Credential::Certificate { files, .. } => std::iter::once(&*files.certificate)
                .chain(files.private_key.as_deref())
                .collect(),
            Credential::WorkloadIdentity { token_file, .. } => vec![token_file],
            Credential::ManagedIdentity(_) => Vec::new(),
        }
    }

    /// Off the threads that serve. Waits for an earlier reading that was given up.
    async fn read(&self) -> Vec<Content> {
        let paths: Vec<_> = self.paths().into_iter().map(Path::to_owned).collect();
        let turn = Arc::clone(&self.reading).lock_owned().await;
        let read = move || {
            let _turn = turn;
            paths.iter().map(|path| Content::of(path)).collect()
        };
        // It fails when the runtime ends, and this task with it.
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }
}

fn line(files: &[Content]) -> Result<Secret, Error> {
    match files.first() {
        Some(file) => Ok(Secret::new(file.line()?.to_owned())),
        None => Err(Error::unusable(Problem::FileUnreadable, "no file is configured")),
    }
}

/// The last file is the one with the secret or key; a certificate alone may be readable for all
/// users.
fn open(files: &[Content]) -> Option<PathBuf> {
    let last = files.last().filter(|file| file.open_to_all)?;
    Some(last.path().to_owned())
}

fn fingerprint(files: &[Content]) -> Option<Fingerprint> {
    if files.is_empty() {
        return None;
    }
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for file in files {
        file.digest_into(&mut context);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Some(Fingerprint(digest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::token::testing;

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_hangs_is_waited_for_and_not_begun_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "value").unwrap();
        let mut provider = CredentialProvider::new(Credential::ClientSecret {
            app: testing::app(),
            secret: SecretSource::File(file.path().to_owned()),
        });
        let hanging = Arc::clone(&provider.reading).lock_owned().await;
        let limit = Duration::from_secs(5);
        for _ in 0..3 {
            let given_up = timeout(limit, provider.proof(Timestamp::UNIX_EPOCH)).await;
            assert!(given_up.is_err());
        }
        drop(hanging);
        let proof = provider.proof(Timestamp::UNIX_EPOCH).await.unwrap();
        assert_eq!(proof.secret().expose(), "value");
    }
}
