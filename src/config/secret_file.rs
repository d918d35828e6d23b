//! Checks files with secrets and certificates, so that `check` reports what would otherwise show
//! only when they are used.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::zeroize::Zeroizing;

use super::key::Key;
use super::reader::{Read, Reader, Recorded};
use crate::plain_text;

impl Reader<'_> {
    /// The path of a readable file with one line: a secret, a password, a token. Anything unusual
    /// about the line becomes a note.
    pub(super) fn line_file(&mut self, key: &'static Key) -> Read<Option<PathBuf>> {
        let Some(path) = self.file(key)? else { return Ok(None) };
        let content = self
            .content(&path)
            .map_err(|problem| self.file_wrong(key, &path, problem))?;
        if let Err(malformed) = plain_text::line(&content) {
            return Err(self.file_wrong(key, &path, malformed));
        }
        for oddity in plain_text::oddities(&content) {
            self.note(format!("{}: {}: {oddity}", key.path(), path.display()));
        }
        Ok(Some(path))
    }

    /// The path of a readable file of certificates to trust.
    pub(super) fn authorities_file(&mut self, key: &'static Key) -> Read<Option<PathBuf>> {
        let Some(path) = self.file(key)? else { return Ok(None) };
        let text = self.pem(key, &path)?;
        if CertificateDer::pem_slice_iter(&text).next().is_none() {
            return Err(self.file_wrong(key, &path, "holds no PEM certificate"));
        }
        Ok(Some(path))
    }

    /// The PEM text of a file. A byte order mark becomes a note.
    pub(super) fn pem(&mut self, key: &'static Key, path: &Path) -> Read<Zeroizing<Vec<u8>>> {
        let content = self
            .content(path)
            .map_err(|problem| self.file_wrong(key, path, problem))?;
        let text = match plain_text::pem(&content) {
            Ok(text) => Zeroizing::new(text.into_owned()),
            Err(malformed) => return Err(self.file_wrong(key, path, malformed)),
        };
        if text.len() < content.len() {
            let mark = plain_text::Oddity::Mark;
            self.note(format!("{}: {}: {mark}", key.path(), path.display()));
        }
        Ok(text)
    }

    /// Records an error about a file that `key` names.
    pub(super) fn file_wrong(&mut self, key: &'static Key, path: &Path, problem: impl Display) -> Recorded {
        self.wrong(key, format!("{}: {problem}", path.display()))
    }
}
