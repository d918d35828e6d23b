//! Credentials: reading them from files, and the forms in which they are sent.

mod certificate;
mod file;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::secret::Secret;
use crate::token::credential::certificate::{Certificate, signed_assertion};
use crate::token::credential::file::Content;
use crate::token::{Credential, Error, Problem, Reason, SecretSource};

/// The credential as it is sent, besides the app's id.
#[derive(Debug)]
pub(super) enum ClientAuth {
    /// `client_secret`.
    Secret(Secret),
    /// `client_assertion`.
    Assertion(Secret),
}

impl ClientAuth {
    /// The value, for sending and for checking that nothing repeats it.
    pub(super) fn secret(&self) -> &Secret {
        let (Self::Secret(secret) | Self::Assertion(secret)) = self;
        secret
    }
}

/// Where the credential is, and what was noticed about it.
#[derive(Debug)]
pub(super) struct CredentialProvider {
    pub(super) credential: Credential,
    /// A digest of the files' contents when they were last used.
    fingerprint: Option<Vec<u8>>,
    /// When the present content was first read.
    pub(super) loaded: Option<Timestamp>,
    /// The file with the secret or key, if every user of the machine can read it.
    pub(super) open_file: Option<PathBuf>,
    /// When the certificate expires.
    pub(super) expires: Option<Timestamp>,
    /// Taken while files are read: a file system that hangs holds one thread, and no more with
    /// every look.
    reading: Arc<Mutex<()>>,
}

impl CredentialProvider {
    pub(super) fn new(credential: Credential) -> Self {
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
    pub(super) async fn proof(&mut self, now: Timestamp) -> Result<ClientAuth, Error> {
        let files = self.read().await;
        let fingerprint = Some(fingerprint(&files));
        if fingerprint != self.fingerprint {
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
                signed_assertion(&certificate, app, now)
                    .map(ClientAuth::Assertion)
                    .ok_or_else(|| Error::unusable(Problem::FileUnusable, "the assertion cannot be signed"))
            }
            Credential::ManagedIdentity(_) => Err(Error::unavailable(Reason::Stopped)),
        }
    }

    /// Whether the files have changed since the last [`CredentialProvider::proof`].
    pub(super) async fn has_changed(&self) -> bool {
        Some(fingerprint(&self.read().await)) != self.fingerprint
    }

    /// The credential's files, the one with the secret or key last.
    pub(super) fn paths(&self) -> Vec<&Path> {
        match &self.credential {
            Credential::ClientSecret { secret, .. } => match secret {
                SecretSource::Value(_) => Vec::new(),
                SecretSource::File(path) => vec![path],
            },
            Credential::Certificate { files, .. } => files.paths().collect(),
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

fn fingerprint(files: &[Content]) -> Vec<u8> {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for file in files {
        file.digest_into(&mut context);
    }
    context.finish().as_ref().to_vec()
}
