//! The charges of earlier processes, on disk.
//!
//! A line a fact, appended when it happens: `i 17 1790000000123456` (charge 17 was issued at that Unix time in microseconds), `s` (it
//! settled), `r` (it was refunded), `b` (what the bucket held then). A process that dies leaves at worst a torn last line, which is skipped. The data reaches the operating
//! system before the call leaves, so it survives `kill -9`; it is not forced to the disk, so a power cut may lose the last few seconds.

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
    file: File,
    /// The last line may lack its end: writing it failed.
    torn: bool,
    /// Facts written since the file was last made compact.
    facts: usize,
    /// After so many facts the file is made compact: about ten lines a charge of the longest window, so it stays below a few hundred kB.
    compact_after: usize,
    /// Distinguishes this process's charges from those of the processes before it.
    next: u64,
    live: BTreeMap<u64, i64>,
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const MINUTE: Duration = Duration::from_mins(1);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    const FILLING: Filling = Filling {
        level: 12.5,
        rate: 0.4,
        lasts: Duration::from_secs(90),
    };

    fn open(path: &Path, now: Timestamp) -> (Memory, Vec<Timestamp>) {
        let (memory, past) = Memory::open(path, 1500, HOUR, MINUTE, now).unwrap();
        (memory, past.charges)
    }

    #[test]
    fn the_bucket_comes_back_as_it_was_last_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let bucket = |now| Memory::open(&path, 1500, HOUR, MINUTE, now).unwrap().1.bucket;
        assert_eq!(bucket(at(0)), None);
        let (mut memory, _) = open(&path, at(0));
        memory.issued(at(1), Filling { level: 13.0, ..FILLING }).unwrap();
        memory.issued(at(2), FILLING).unwrap();
        assert_eq!(bucket(at(3)), Some((at(2), FILLING)));
        // Made compact, and torn.
        fs::write(&path, [&fs::read(&path).unwrap()[..], b"b 17900000"].concat()).unwrap();
        assert_eq!(bucket(at(4)), Some((at(2), FILLING)));
    }

    #[test]
    fn charges_come_back_as_they_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut memory, before) = open(&path, at(0));
        assert!(before.is_empty());
        let settled = memory.issued(at(1), FILLING).unwrap();
        memory.settled(settled, at(2)).unwrap();
        let refunded = memory.issued(at(3), FILLING).unwrap();
        memory.refunded(refunded, at(4)).unwrap();
        memory.issued(at(5), FILLING).unwrap();
        drop(memory);
        // The one whose fate is unknown counts at its timeout, but no later than now.
        assert_eq!(open(&path, at(100)).1, [at(2), at(65)]);
        assert_eq!(open(&path, at(10_000)).1, []);
    }

    #[test]
    fn an_unsettled_charge_counts_a_second_from_now_when_its_timeout_is_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        open(&path, at(0)).0.issued(at(1), FILLING).unwrap();
        assert_eq!(open(&path, at(2)).1, [at(3)]);
    }

    #[test]
    fn torn_and_foreign_lines_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let good = at(1).as_microsecond();
        fs::write(
            &path,
            format!("s 1 {good}\nnonsense\ns x y\ns 2 {good} extra\n\u{0}\ns 3 179000"),
        )
        .unwrap();
        let (mut memory, counted) = open(&path, at(2));
        assert_eq!(counted, [at(1)]);
        let id = memory.issued(at(3), FILLING).unwrap();
        memory.settled(id, at(3)).unwrap();
        drop(memory);
        assert_eq!(open(&path, at(4)).1, [at(1), at(3)]);
    }

    #[test]
    fn a_file_cut_at_any_byte_loses_the_torn_line_only_and_counts_no_call_less() {
        let dir = tempfile::tempdir().unwrap();
        let (path, cut) = (dir.path().join("state"), dir.path().join("cut"));
        let (mut memory, _) = open(&path, at(0));
        for second in 1..=12 {
            let id = memory.issued(at(second), FILLING).unwrap();
            match second % 3 {
                0 => memory.settled(id, at(second + 1)).unwrap(),
                1 => memory.refunded(id, at(second + 1)).unwrap(),
                _ => {}
            }
        }
        let whole = fs::read(&path).unwrap();
        let counted = |text: &[u8]| {
            fs::write(&cut, text).unwrap();
            let (mut memory, counted) = open(&cut, at(20));
            // What is remembered from then on is remembered behind whatever was there.
            memory.issued(at(20), FILLING).unwrap();
            drop(memory);
            assert_eq!(open(&cut, at(20)).1.len(), counted.len() + 1);
            counted
        };
        for end in 0..=whole.len() {
            let lines = whole[..end]
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            let left = counted(&whole[..end]);
            assert_eq!(left, counted(&whole[..lines]), "cut at {end}");
            let text = String::from_utf8_lossy(&whole[..lines]).into_owned();
            let facts = |kind: &str| text.lines().filter(|line| line.starts_with(kind)).count();
            assert_eq!(
                left.len(),
                facts("i ") - facts("r "),
                "cut at {end}: every call that may have left"
            );
        }
    }

    #[test]
    fn a_line_that_a_full_disk_cut_off_spoils_no_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut memory, _) = open(&path, at(0));
        let working = std::mem::replace(&mut memory.file, File::open(&path).unwrap());
        memory.issued(at(1), FILLING).unwrap_err();
        fs::write(&path, "i 0 17900").unwrap();
        memory.file = working;
        memory.issued(at(2), FILLING).unwrap();
        drop(memory);
        assert_eq!(open(&path, at(1000)).1, [at(62)]);
    }

    #[test]
    fn the_highest_number_of_all_is_followed_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        fs::write(&path, format!("s {} {}\n", u64::MAX, at(1).as_microsecond())).unwrap();
        let (mut memory, before) = open(&path, at(2));
        assert_eq!(before, [at(1)]);
        let id = memory.issued(at(3), FILLING).unwrap();
        memory.settled(id, at(3)).unwrap();
        drop(memory);
        assert_eq!(open(&path, at(4)).1, [at(1), at(3)]);
    }

    #[test]
    fn the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let (mut memory, _) = Memory::open(&path, 10, Duration::from_secs(10), MINUTE, at(0)).unwrap();
        for second in 0..20_000 {
            let id = memory.issued(at(second), FILLING).unwrap();
            memory.settled(id, at(second)).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 60_000);
        assert!(memory.live.len() < 1200);
    }
}
