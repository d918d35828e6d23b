//! The files that a configuration names: the part of the file system that resolving it needs, which
//! tests replace; and the checks of files with secrets and certificates, so that `check` reports
//! what would otherwise show only when they are used.

use std::fmt::{self, Display};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::zeroize::Zeroizing;

use super::key::Key;
use super::reader::{Read, Reader, Recorded};
use crate::plain_text;

/// No secret and no bundle of certificates is longer.
pub(super) const MAX_CONTENT_BYTES: u64 = 1 << 20;

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A file that could be opened for reading, and its length.
    File {
        /// Its length in bytes.
        bytes: u64,
    },
    /// A directory.
    Directory,
    /// A socket, pipe or device.
    Other,
}

/// A read-only view of files.
pub trait Files: fmt::Debug {
    /// What is at `path`. A regular file is opened to prove that it is readable.
    fn look(&self, path: &Path) -> io::Result<Found>;

    /// The content of the file at `path`; longer than `limit` bytes is an error.
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn look(&self, path: &Path) -> io::Result<Found> {
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            return Ok(Found::Directory);
        }
        // Opening a pipe would block until it is written to.
        if !metadata.is_file() {
            return Ok(Found::Other);
        }
        File::open(path)?;
        Ok(Found::File { bytes: metadata.len() })
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("longer than {limit} bytes"),
            ));
        }
        Ok(bytes)
    }
}

/// By what contents are compared that are not kept: their SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(content: &[u8]) -> Self {
        let mut digest = [0; 32];
        digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, content).as_ref());
        Self(digest)
    }
}

/// Why a file cannot be read, for a message.
pub(super) fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => "may not be read by this user".into(),
        _ => format!("cannot be read ({error})"),
    }
}

impl Reader<'_> {
    /// The path of a readable file with one line: a secret, a password, a token. Anything unusual
    /// about the line becomes a note.
    pub(super) fn line_file(&mut self, key: &'static Key) -> Read<Option<PathBuf>> {
        let Some(path) = self.file(key)? else { return Ok(None) };
        let content = self.content_for(key, &path)?;
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
        let content = self.content_for(key, path)?;
        let text = plain_text::pem(&content).map(|text| Zeroizing::new(text.into_owned()));
        let text = text.map_err(|malformed| self.file_wrong(key, path, malformed))?;
        if text.len() < content.len() {
            let mark = plain_text::Oddity::Mark;
            self.note(format!("{}: {}: {mark}", key.path(), path.display()));
        }
        Ok(text)
    }

    fn content_for(&mut self, key: &'static Key, path: &Path) -> Read<Zeroizing<Vec<u8>>> {
        let content = self.content(path);
        content.map_err(|problem| self.file_wrong(key, path, problem))
    }

    /// Records an error about a file that `key` names.
    pub(super) fn file_wrong(&mut self, key: &'static Key, path: &Path, problem: impl Display) -> Recorded {
        self.wrong(key, format!("{}: {problem}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_tells_files_from_directories_and_bounds_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "12345").unwrap();
        assert_eq!(Disk.look(&path).unwrap(), Found::File { bytes: 5 });
        assert_eq!(Disk.look(folder.path()).unwrap(), Found::Directory);
        assert_eq!(
            Disk.look(&folder.path().join("none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(Disk.read(&path, 5).unwrap(), b"12345");
        assert_eq!(Disk.read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
