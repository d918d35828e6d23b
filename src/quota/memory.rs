//! The charges of earlier processes, on disk.
//!
//! A line a fact, appended when it happens: `i 17 1790000000123456` (charge 17 was issued at that Unix time in microseconds), `s` (it
//! settled), `r` (it was refunded), `b` (what the bucket held then). A process that dies leaves at worst a torn last line, which is
//! skipped. The data reaches the operating system before the call leaves, so it survives `kill -9`; it is not forced to the disk, so a power
//! cut may lose the last few seconds.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::pace::Filling;

/// The open state file.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    pub(super) file: File,
    /// The last line may lack its end: writing it failed.
    torn: bool,
    /// Facts written since the file was last made compact.
    facts: usize,
    /// After so many facts the file is made compact: about ten lines a charge of the longest window, so it stays below a few hundred kB.
    compact_after: usize,
    /// Distinguishes this process's charges from those of the processes before it.
    next: u64,
    pub(super) live: BTreeMap<u64, i64>,
    bucket: Option<Bucket>,
    window: Duration,
    attempt: Duration,
}

/// What is read back.
#[derive(Debug)]
pub struct Past {
    /// When each charge that still counts was made, as far as the ledger is concerned.
    pub charges: Vec<Timestamp>,
    /// The bucket as it was last written down, and when.
    pub bucket: Option<(Timestamp, Filling)>,
}

/// The bucket at a Unix time, all in whole numbers: microseconds, millionths of a call, billionths of a call per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket {
    at: i64,
    level: u64,
    rate: u64,
    lasts: u64,
}

impl Bucket {
    fn new(at: i64, filling: Filling) -> Self {
        // Neither can be negative, and a float that is too large becomes the largest number.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "as the comment says"
        )]
        let whole = |number: f64| number.round() as u64;
        Self {
            at,
            level: whole(filling.level * 1e6),
            rate: whole(filling.rate * 1e9),
            lasts: u64::try_from(filling.lasts.as_micros()).unwrap_or(u64::MAX),
        }
    }

    fn read(words: &str) -> Option<Self> {
        let mut words = words.split(' ');
        let at = words.next()?.parse().ok()?;
        let mut next = || words.next()?.parse().ok();
        let (level, rate, lasts) = (next()?, next()?, next()?);
        words.next().is_none().then_some(Self { at, level, rate, lasts })
    }

    fn write(self) -> String {
        format!("b {} {} {} {}\n", self.at, self.level, self.rate, self.lasts)
    }

    fn filling(self) -> Option<(Timestamp, Filling)> {
        let filling = Filling {
            level: self.level as f64 / 1e6,
            rate: self.rate as f64 / 1e9,
            lasts: Duration::from_micros(self.lasts),
        };
        Timestamp::from_microsecond(self.at).ok().map(|at| (at, filling))
    }
}

/// A process that dies takes its connections with it; what it had written may still arrive for this long.
const LANDING: Duration = Duration::from_secs(1);

/// A file larger than this is not ours.
const LARGEST: u64 = 64 << 20;

impl Memory {
    /// Opens or creates the file and reads back what still counts.
    ///
    /// A charge that never settled counts as made `attempt` after its issue; none later than a second
    /// from now (its process is gone, or the clock was set back). Lines that cannot be read are skipped.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is larger than 64 MiB.
    pub fn open(
        path: &Path,
        most: usize,
        window: Duration,
        attempt: Duration,
        now: Timestamp,
    ) -> io::Result<(Self, Past)> {
        let text = read(path)?;
        let (live, bucket) = replay(&text, attempt);
        let latest = now.as_microsecond().saturating_add(micros(LANDING));
        // Named anew: whatever numbers the file holds, there are some left.
        let live: BTreeMap<_, _> = (0..).zip(live.into_values().map(|at| at.min(latest))).collect();
        let mut memory = Self {
            path: path.to_owned(),
            file: OpenOptions::new().create(true).append(true).open(path)?,
            torn: false,
            facts: 0,
            compact_after: most.saturating_mul(10).max(1000),
            next: live.len() as u64,
            live,
            bucket,
            window,
            attempt,
        };
        memory.compact(now)?;
        let counted = memory
            .live
            .values()
            .filter_map(|at| Timestamp::from_microsecond(*at).ok())
            .collect();
        let past = Past {
            charges: counted,
            bucket: memory.bucket.and_then(Bucket::filling),
        };
        Ok((memory, past))
    }

    /// Remembers further back from now on, never less far: limits may be widened again. See [`Memory::open`] for what the values mean.
    pub fn extend(&mut self, most: usize, window: Duration, attempt: Duration) {
        self.compact_after = self.compact_after.max(most.saturating_mul(10));
        self.window = self.window.max(window);
        self.attempt = self.attempt.max(attempt);
    }

    /// Remembers that a call is about to leave, and what it leaves in the bucket; returns its name for the later facts.
    ///
    /// # Errors
    /// When the file cannot be written. The call may still go: the loss is a less complete memory.
    pub fn issued(&mut self, now: Timestamp, filling: Filling) -> io::Result<u64> {
        let id = self.next;
        self.next += 1;
        let at = now.as_microsecond();
        self.live.insert(id, at.saturating_add(micros(self.attempt)));
        let bucket = Bucket::new(at, filling);
        self.bucket = Some(bucket);
        self.append(&format!("i {id} {at}\n{}", bucket.write()), now)?;
        Ok(id)
    }

    /// Remembers that the call counts as made now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn settled(&mut self, id: u64, now: Timestamp) -> io::Result<()> {
        let at = now.as_microsecond();
        self.live.insert(id, at);
        self.append(&format!("s {id} {at}\n"), now)
    }

    /// Remembers that the call was not made.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn refunded(&mut self, id: u64, now: Timestamp) -> io::Result<()> {
        self.live.remove(&id);
        self.append(&format!("r {id} {}\n", now.as_microsecond()), now)
    }

    fn append(&mut self, facts: &str, now: Timestamp) -> io::Result<()> {
        if self.torn {
            // A full disk took a part of the line; what follows must not become a part of it.
            self.file.write_all(b"\n")?;
        }
        self.torn = true;
        self.file.write_all(facts.as_bytes())?;
        self.torn = false;
        self.facts += 1;
        if self.facts > self.compact_after {
            self.compact(now)
        } else {
            Ok(())
        }
    }

    /// Writes what still counts to a new file and puts it in the old one's place, so that a crash leaves one or the other.
    fn compact(&mut self, now: Timestamp) -> io::Result<()> {
        let oldest = now.as_microsecond().saturating_sub(micros(self.window));
        self.live.retain(|_, at| *at > oldest);
        let mut text = String::new();
        for (id, at) in &self.live {
            writeln!(text, "s {id} {at}").map_err(io::Error::other)?;
        }
        text.extend(self.bucket.map(Bucket::write));
        let new = self.path.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        (self.torn, self.facts) = (false, 0);
        Ok(())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(LARGEST + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the state file is larger than 64 MiB",
        ));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// When each charge of `text` counts as made, in Unix microseconds, and the last bucket.
fn replay(text: &str, attempt: Duration) -> (BTreeMap<u64, i64>, Option<Bucket>) {
    let mut live = BTreeMap::new();
    let mut bucket = None;
    // A line without its end is torn; what it says may be cut off.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if let Some(words) = line.strip_prefix("b ") {
            bucket = Bucket::read(words).or(bucket);
            continue;
        }
        let mut words = line.split(' ');
        let (Some(kind), Some(Ok(id)), Some(Ok(at)), None) = (
            words.next(),
            words.next().map(str::parse::<u64>),
            words.next().map(str::parse::<i64>),
            words.next(),
        ) else {
            continue;
        };
        match kind {
            "i" => _ = live.insert(id, at.saturating_add(micros(attempt))),
            "s" => _ = live.insert(id, at),
            "r" => _ = live.remove(&id),
            _ => {}
        }
    }
    (live, bucket)
}
