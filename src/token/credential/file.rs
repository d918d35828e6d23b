//! Credential files, read completely and within bounds.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use secrecy::zeroize::Zeroizing;

use crate::plain_text;
use crate::token::{Error, Problem};

/// Far above any chain of certificates or token.
const MAX_BYTES: u64 = 256 * 1024;

/// A file's content, or why it could not be read.
#[derive(Debug)]
pub(super) struct Content {
    path: PathBuf,
    /// Wiped from memory when dropped.
    bytes: io::Result<Zeroizing<Vec<u8>>>,
    /// Whether users other than owner and group can read it.
    pub(super) open_to_all: bool,
}

impl Content {
    /// Reads `path` as it is now, and blocks for as long as the disk does. Links are followed,
    /// because Kubernetes replaces them.
    pub(super) fn of(path: &Path) -> Self {
        let metadata = fs::metadata(path);
        Self {
            path: path.to_owned(),
            open_to_all: metadata.as_ref().is_ok_and(is_open_to_all) && !is_volume(path),
            bytes: metadata.and_then(|metadata| read(path, &metadata)),
        }
    }

    /// Where it was read from.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> Result<&[u8], Error> {
        match &self.bytes {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(Error::unusable(Problem::FileUnreadable, self.note(error))),
        }
    }

    /// The text without a byte order mark and the line break that editors and `echo` leave at its
    /// end.
    pub(super) fn line(&self) -> Result<&str, Error> {
        plain_text::line(self.bytes()?).map_err(|malformed| self.unusable(malformed))
    }

    /// The PEM text, without byte order marks. Wiped from memory when dropped.
    pub(super) fn pem(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let text = plain_text::pem(self.bytes()?).map_err(|malformed| self.unusable(malformed))?;
        Ok(Zeroizing::new(text.into_owned()))
    }

    fn unusable(&self, malformed: plain_text::Malformed) -> Error {
        Error::unusable(Problem::FileUnusable, self.note(malformed))
    }

    /// Adds what distinguishes its contents.
    pub(super) fn digest_into(&self, context: &mut ring::digest::Context) {
        match &self.bytes {
            Ok(bytes) => {
                context.update(&(bytes.len() as u64).to_be_bytes());
                context.update(bytes);
            }
            Err(error) => context.update(format!("{:?}", error.kind()).as_bytes()),
        }
    }

    /// `text` after the file's name.
    pub(super) fn note(&self, text: impl std::fmt::Display) -> String {
        format!("{}: {text}", self.path.display())
    }
}

fn read(path: &Path, metadata: &Metadata) -> io::Result<Zeroizing<Vec<u8>>> {
    // Opening a named pipe would wait for its other end.
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    // Allocated at once, because a vector that grows leaves copies behind.
    let room = usize::try_from(metadata.len().min(MAX_BYTES)).unwrap_or(0) + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 256 KiB"));
    }
    Ok(bytes)
}

#[cfg(unix)]
fn is_open_to_all(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.is_file() && metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_open_to_all(_: &Metadata) -> bool {
    false
}

/// Whether the kubelet keeps the file, in a volume that only the containers that mount it can see.
/// Its files belong to root, so `other` is the only way to let the gateway's user read them. The
/// kubelet replaces a volume's content through the link `..data` in the volume's folder, below
/// which the file may lie in folders of its own.
fn is_volume(path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .any(|folder| folder.join("..data").is_symlink())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_world_readable_file_is_noticed_except_in_a_volume_of_the_kubelet() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client-secret");
        fs::write(&path, "value").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
        assert!(Content::of(&path).open_to_all, "every user of the machine can read it");

        let data = folder.path().join("..2026_11_26");
        fs::create_dir(&data).unwrap();
        fs::rename(&path, data.join("client-secret")).unwrap();
        symlink("..2026_11_26", folder.path().join("..data")).unwrap();
        symlink("..data/client-secret", &path).unwrap();
        assert!(
            !Content::of(&path).open_to_all,
            "only the containers that mount it can read it"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_file_in_a_folder_of_a_volume_is_in_the_volume() {
        use std::os::unix::fs::{PermissionsExt, symlink};

        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("..2026_11_26");
        fs::create_dir_all(data.join("tls")).unwrap();
        fs::write(data.join("tls/secret"), "value").unwrap();
        fs::set_permissions(data.join("tls/secret"), PermissionsExt::from_mode(0o444)).unwrap();
        symlink("..2026_11_26", folder.path().join("..data")).unwrap();
        symlink("..data/tls", folder.path().join("tls")).unwrap();
        assert!(
            !Content::of(&folder.path().join("tls/secret")).open_to_all,
            "only the containers that mount it can read it"
        );
    }

    fn line_of(content: &[u8]) -> Result<String, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        Content::of(file.path()).line().map(str::to_owned)
    }

    #[test]
    fn only_the_line_break_at_the_end_is_dropped() {
        assert_eq!(line_of(b"abc~.Q\n").unwrap(), "abc~.Q");
        assert_eq!(line_of(b"abc \r\n").unwrap(), "abc ");
        assert_eq!(line_of(b"\xef\xbb\xbfabc\r\n").unwrap(), "abc");
        for bad in [&b""[..], b"\n", b"a\nb", b"\xff\xfe"] {
            assert_eq!(line_of(bad).unwrap_err().code(), "CredentialFileUnusable", "{bad:?}");
        }
    }

    #[test]
    fn missing_huge_and_strange_files_are_errors_that_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let huge = folder.path().join("huge");
        fs::write(&huge, vec![b'x'; 300 * 1024]).unwrap();
        for path in [folder.path().join("absent"), folder.path().to_owned(), huge] {
            let error = Content::of(&path).bytes().unwrap_err();
            assert_eq!(error.code(), "CredentialFileUnreadable");
            assert!(
                error.message().starts_with(path.to_str().unwrap()),
                "{}",
                error.message()
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn world_readable_files_are_noticed() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Content::of(file.path()).open_to_all, open, "{mode:o}");
        }
    }
}
