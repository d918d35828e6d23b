//! The charges of earlier processes, on disk.
//!
//! A line is a fact, appended when it happens: `i 17 1790000000123456` (charge 17 was issued at
//! that Unix time in microseconds), `s` (it settled), `r` (it was refunded), `b` (what the bucket
//! held then), `c` (which boot the lines below were written in, and which time since that boot was
//! which Unix time). A process that dies leaves at worst a torn last line, which is skipped. The
//! data reaches the operating system before the call leaves, so it survives `kill -9`; it is not
//! forced to the disk, so a power cut may lose the last few seconds.
//!
//! Wall clocks are stepped. So the age of a charge that was made since this machine booted is
//! measured with the time since boot: the Unix times below a `c` line are that time, only written
//! as if the wall clock had never been stepped since. For a charge of an earlier boot, or of
//! another machine, there is nothing better than the wall clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use super::pacer::BucketState;
use crate::clock::Reading;

/// The open state file.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    pub(super) file: File,
    clock: Clock,
    /// The last line may lack its end: writing it failed.
    torn: bool,
    /// Facts written since the file was last made compact.
    facts: usize,
    /// After so many facts the file is made compact: about ten lines a charge of the longest
    /// window, so it stays below a few hundred kB.
    compact_after: usize,
    /// Distinguishes this process's charges from those of the processes before it.
    next: u64,
    /// When each charge counts as made, on the [`Clock`].
    pub(super) live: BTreeMap<u64, i64>,
    /// The bucket as it was last written down, and when.
    bucket: Option<(i64, BucketState)>,
    window: Duration,
    attempt: Duration,
}

/// What is read back.
#[derive(Debug)]
pub struct RestoredState {
    /// How long ago each charge that still counts was made, as far as the ledger is concerned. At
    /// most a second ahead.
    pub charges: Vec<SignedDuration>,
    /// The bucket as it was last written down, and how long ago that was.
    pub bucket: Option<(SignedDuration, BucketState)>,
}

/// The clock that this process keeps its facts on, in microseconds: since boot where the system
/// tells that, else of the wall.
#[derive(Clone, Debug)]
struct Clock {
    boot_id: Option<Arc<str>>,
    /// Unix time is this much more, or was when it was last looked at.
    offset: i64,
}

impl Clock {
    /// A wall clock that was corrected by less than this keeps its offset; more is written down.
    const STEP: i64 = 1_000_000;

    fn new(reading: &Reading) -> Self {
        let boot = reading.boot.as_ref();
        let mut clock = Self {
            boot_id: boot.map(|boot| Arc::clone(&boot.boot_id)),
            offset: 0,
        };
        clock.offset = reading.wall.as_microsecond() - clock.now(reading);
        clock
    }

    fn now(&self, reading: &Reading) -> i64 {
        match (&self.boot_id, &reading.boot) {
            (Some(_), Some(boot)) => micros(boot.elapsed),
            _ => reading.wall.as_microsecond(),
        }
    }

    /// Follows the wall clock. Returns whether it was stepped.
    fn follow(&mut self, reading: &Reading) -> bool {
        let now = Self::new(reading);
        let is_stepped = (now.offset - self.offset).abs() > Self::STEP;
        if is_stepped {
            self.offset = now.offset;
        }
        is_stepped
    }

    fn to_unix(&self, at: i64) -> i64 {
        at.saturating_add(self.offset)
    }

    /// The line that says what the Unix times below it mean.
    fn write(&self, now: i64) -> String {
        let boot_id = self.boot_id.as_ref();
        boot_id.map_or_else(String::new, |boot_id| {
            format!("c {boot_id} {now} {}\n", self.to_unix(now))
        })
    }

    /// How to read the lines below that line; `None` when it is not one.
    fn read(words: &str) -> Option<Self> {
        let mut words = words.split(' ');
        let boot_id = words.next().filter(|id| !id.is_empty())?;
        let at: i64 = words.next()?.parse().ok()?;
        let unix: i64 = words.next()?.parse().ok()?;
        words.next().is_none().then(|| Self {
            boot_id: Some(boot_id.into()),
            offset: unix.saturating_sub(at),
        })
    }

    /// The moment on this clock that another process wrote down as that Unix time.
    fn translate(&self, writer: Option<&Self>, unix: i64) -> i64 {
        let offset = match writer {
            Some(writer) if writer.boot_id == self.boot_id => writer.offset,
            _ => self.offset,
        };
        unix.saturating_sub(offset)
    }
}

/// The line that says what the bucket held at that Unix time, all in whole numbers: microseconds,
/// millionths of a call, billionths of a call per second.
fn write_bucket(unix: i64, bucket: BucketState) -> String {
    // Neither can be negative, and a float that is too large becomes the largest number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "as the comment says"
    )]
    let whole = |number: f64| number.round() as u64;
    let (level, rate) = (whole(bucket.level * 1e6), whole(bucket.rate * 1e9));
    format!("b {unix} {level} {rate} {}\n", bucket.lasts.as_micros())
}

/// What that line says; `None` when it is not one.
fn read_bucket(words: &str) -> Option<(i64, BucketState)> {
    let mut words = words.split(' ');
    let unix = words.next()?.parse().ok()?;
    let mut next = || words.next()?.parse::<u64>().ok();
    let bucket = BucketState {
        level: next()? as f64 / 1e6,
        rate: next()? as f64 / 1e9,
        lasts: Duration::from_micros(next()?),
    };
    words.next().is_none().then_some((unix, bucket))
}

/// A process that dies takes its connections with it; what it had written may still arrive for this
/// long.
const LANDING: Duration = Duration::from_secs(1);

/// A file larger than this is not ours.
const LARGEST: u64 = 64 << 20;

impl StateFile {
    /// Opens or creates the file and reads back what still counts.
    ///
    /// A charge that never settled counts as made `attempt` after its issue; none later than a
    /// second from now (its process is gone, or the clock was set back). Lines that cannot be read
    /// are skipped.
    ///
    /// `predecessors` may hold calls that count here too, because they were made while the quota
    /// was divided otherwise. Those that were written to after this file are read; what they hold
    /// is part of this file from then on.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is larger than 64 MiB.
    pub fn open(
        path: &Path,
        predecessors: &[PathBuf],
        most: usize,
        window: Duration,
        attempt: Duration,
        reading: &Reading,
    ) -> io::Result<(Self, RestoredState)> {
        let text = read(path)?;
        let clock = Clock::new(reading);
        let now = clock.now(reading);
        let (live, bucket) = replay(&text, attempt, &clock);
        let mut charges: Vec<_> = live.into_values().collect();
        for predecessor in written_after(path, predecessors) {
            let others = replay(&read(predecessor)?, attempt, &clock).0.into_values();
            charges = united(charges, others.collect());
        }
        let latest = now.saturating_add(micros(LANDING));
        // Named anew: whatever numbers the file holds, there are some left.
        let live: BTreeMap<_, _> = (0..).zip(charges.into_iter().map(|at| at.min(latest))).collect();
        let mut state_file = Self {
            path: path.to_owned(),
            file: OpenOptions::new().create(true).append(true).open(path)?,
            clock,
            torn: false,
            facts: 0,
            compact_after: most.saturating_mul(10).max(1000),
            next: live.len() as u64,
            live,
            bucket,
            window,
            attempt,
        };
        state_file.compact(now)?;
        let ago = |at: i64| SignedDuration::from_micros(now.saturating_sub(at));
        let restored = RestoredState {
            charges: state_file.live.values().map(|at| ago(*at)).collect(),
            bucket: state_file.bucket.map(|(at, bucket)| (ago(at), bucket)),
        };
        Ok((state_file, restored))
    }

    /// Remembers further back from now on, never less far: limits may be widened again. See
    /// [`StateFile::open`] for what the values mean.
    pub fn extend(&mut self, most: usize, window: Duration, attempt: Duration) {
        self.compact_after = self.compact_after.max(most.saturating_mul(10));
        self.window = self.window.max(window);
        self.attempt = self.attempt.max(attempt);
    }

    /// Remembers that a call is about to leave, and what it leaves in the bucket; returns its name
    /// for the later facts.
    ///
    /// # Errors
    /// When the file cannot be written. The call may still go: the loss is a less complete memory.
    pub fn issued(&mut self, reading: &Reading, bucket: BucketState) -> io::Result<u64> {
        let id = self.next;
        self.next += 1;
        let at = self.clock.now(reading);
        self.live.insert(id, at.saturating_add(micros(self.attempt)));
        self.bucket = Some((at, bucket));
        self.append(reading, |clock| {
            let unix = clock.to_unix(at);
            format!("i {id} {unix}\n{}", write_bucket(unix, bucket))
        })?;
        Ok(id)
    }

    /// Remembers that the call counts as made now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn settled(&mut self, id: u64, reading: &Reading) -> io::Result<()> {
        let at = self.clock.now(reading);
        self.live.insert(id, at);
        self.append(reading, |clock| format!("s {id} {}\n", clock.to_unix(at)))
    }

    /// Remembers that the call was not made.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn refunded(&mut self, id: u64, reading: &Reading) -> io::Result<()> {
        let at = self.clock.now(reading);
        self.live.remove(&id);
        self.append(reading, |clock| format!("r {id} {}\n", clock.to_unix(at)))
    }

    fn append(&mut self, reading: &Reading, facts: impl FnOnce(&Clock) -> String) -> io::Result<()> {
        let now = self.clock.now(reading);
        if self.clock.follow(reading) {
            // Everything is written anew, because the lines above mean the clock as it was. The
            // facts are already in memory.
            return self.compact(now);
        }
        if self.torn {
            // A full disk took a part of the line; what follows must not become a part of it.
            self.file.write_all(b"\n")?;
        }
        self.torn = true;
        self.file.write_all(facts(&self.clock).as_bytes())?;
        self.torn = false;
        self.facts += 1;
        if self.facts > self.compact_after {
            self.compact(now)
        } else {
            Ok(())
        }
    }

    /// Writes what still counts to a new file and puts it in the old one's place, so that a crash
    /// leaves one or the other.
    fn compact(&mut self, now: i64) -> io::Result<()> {
        let oldest = now.saturating_sub(micros(self.window));
        self.live.retain(|_, at| *at > oldest);
        let mut text = self.clock.write(now);
        for (id, at) in &self.live {
            writeln!(text, "s {id} {}", self.clock.to_unix(*at)).map_err(io::Error::other)?;
        }
        text.extend(
            self.bucket
                .map(|(at, bucket)| write_bucket(self.clock.to_unix(at), bucket)),
        );
        let new = beside(&self.path, ".new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        (self.torn, self.facts) = (false, 0);
        Ok(())
    }
}

/// The file of that name with this ending added.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(ending);
    name.into()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// All charges of two files. Both may have the same one, which one of them took over from the
/// other, and with it its time in microseconds; it counts once.
fn united(mut charges: Vec<i64>, mut others: Vec<i64>) -> Vec<i64> {
    let mut known = BTreeMap::<i64, usize>::new();
    for at in &charges {
        *known.entry(*at).or_default() += 1;
    }
    others.retain(|at| {
        let count = known.get_mut(at).filter(|count| **count > 0);
        count.map(|count| *count -= 1).is_none()
    });
    charges.append(&mut others);
    charges
}

/// Those of `others` that exist and were written to after `path`; all that exist where there is no
/// `path` yet.
fn written_after<'a>(path: &Path, others: &'a [PathBuf]) -> impl Iterator<Item = &'a PathBuf> {
    let written = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let own = written(path);
    others.iter().filter(move |other| written(other) > own)
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

/// When each charge of `text` counts as made, on this clock, and the last bucket.
fn replay(text: &str, attempt: Duration, clock: &Clock) -> (BTreeMap<u64, i64>, Option<(i64, BucketState)>) {
    let mut live = BTreeMap::new();
    let mut bucket = None;
    let mut writer = None;
    // A line without its end is torn; what it says may be cut off.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if let Some(words) = line.strip_prefix("c ") {
            writer = Clock::read(words).or(writer);
            continue;
        }
        if let Some(words) = line.strip_prefix("b ") {
            let read = read_bucket(words);
            bucket = read
                .map(|(unix, read)| (clock.translate(writer.as_ref(), unix), read))
                .or(bucket);
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
        let at = clock.translate(writer.as_ref(), at);
        match kind {
            "i" => _ = live.insert(id, at.saturating_add(micros(attempt))),
            "s" => _ = live.insert(id, at),
            "r" => _ = live.remove(&id),
            _ => {}
        }
    }
    (live, bucket)
}
