//! The part of the file system that resolving a configuration needs; tests replace it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

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
