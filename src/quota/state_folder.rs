//! The state file and what lies beside it, as the file system has them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub(super) fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// The file of that name with this ending added.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(ending);
    name.into()
}

/// Whether there is a file of that name, and it is `open`, if that is said.
pub(super) fn is_in_place(path: &Path, open: Option<&File>) -> bool {
    let there = fs::metadata(path).map(|there| (there.dev(), there.ino()));
    let here = open.map(|open| open.metadata().map(|here| (here.dev(), here.ino())));
    match (there, here) {
        (Ok(there), Some(Ok(here))) => there == here,
        (Ok(_), None) => true,
        (Err(_), _) | (_, Some(Err(_))) => false,
    }
}

/// Puts a new file in the place of the one of that name, so that a crash leaves one or the other.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path, ".new");
    let replaced = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // A part of it would only take room on a disk that is full.
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// The right to rewrite the file; `None` when another process has it. It ends with that process,
/// however it ends.
pub(super) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = append_to(&beside(path, ".lock"))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(None),
        // Where files cannot be locked, nobody can tell; somebody must keep the file short.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
    }
}

/// Those of `others` that exist and were written to after `path`; all that exist where there is no
/// `path` yet.
pub(super) fn written_after<'a>(path: &Path, others: &'a [PathBuf]) -> impl Iterator<Item = &'a PathBuf> {
    let written = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let own = written(path);
    others.iter().filter(move |other| written(other) > own)
}

/// What the file of that name holds, if there is one: of one that is larger than so many bytes, its
/// end.
pub(super) fn read(path: &Path, largest: u64) -> io::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    if length > largest {
        let mut first = [0; 3];
        file.read_exact(&mut first)?;
        // A line may begin the file, or the end of one that was torn.
        let line = first.strip_prefix(b"\n").unwrap_or(&first);
        if !matches!(line, [b'c' | b'w' | b'i' | b's' | b'r' | b'b' | b'p', b' ', ..]) {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "larger than 64 MiB, and no state file",
            ));
        }
        file.seek(SeekFrom::Start(length - largest))?;
    }
    let mut bytes = Vec::new();
    file.take(largest).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
