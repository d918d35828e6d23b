//! The charges of earlier processes, on disk.
//!
//! A line is a fact, appended when it happens: `i 17 1790000000123456` (charge 17 was issued at
//! that Unix time in microseconds), `s` (it settled), `r` (it was refunded), `b` (what the bucket
//! held then), `p` (for how long everybody pauses from then on), `c` (which boot the lines below
//! were written in, and which time since that boot was which Unix time), `w` (how far back every
//! call is here: [`Reach`]). A line of another kind is skipped, and so is a torn last line, which is
//! the worst that a process leaves that dies. The data reaches the operating system before the call
//! leaves, so it survives `kill -9`; it is not forced to the disk, so a power cut may lose the last
//! few seconds.
//!
//! One process has the right to rewrite the file (a lock on the file beside it that ends in
//! `.lock`); it leaves in it what others have appended. A process that comes while another has that
//! right, such as `probe` beside a running gateway, reads and appends only.
//!
//! What a full disk did not take, or went with a file that was removed, is still in memory: the file
//! is written anew from there as soon as that works.
//!
//! Wall clocks are stepped. So the age of a charge that was made since this machine booted is
//! measured with the time since boot: the Unix times below a `c` line are that time, only written
//! as if the wall clock had never been stepped since. For a charge of an earlier boot, or of
//! another machine, there is nothing better than the wall clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;

use super::pacer::BucketState;
use super::state_folder::{append_to, is_in_place, lock, read, replace, written_after};
use super::state_lines::{Clock, Replayed, micros, replay, united, write_bucket, write_pause};
use super::state_reach::Reach;
use crate::clock::Reading;

/// The open state file.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    pub(super) file: File,
    /// The right to rewrite the file; `None` while another process has it.
    lock: Option<File>,
    clock: Clock,
    /// The clock was stepped, and the file does not say so yet.
    stepped: bool,
    /// The last line may lack its end: writing it failed.
    torn: bool,
    /// The file may lack facts, or was to be written anew, and that failed.
    incomplete: bool,
    /// Facts written since the file was last made compact.
    facts: usize,
    /// Distinguishes this process's charges from those of the processes before and beside it: the
    /// name of the next one, and of the first.
    next: u64,
    first: u64,
    /// When each charge counts as made, on the [`Clock`]. Without the right to rewrite the file,
    /// those of this process only.
    pub(super) live: BTreeMap<u64, i64>,
    /// The bucket as it was last written down, and when.
    bucket: Option<(i64, BucketState)>,
    /// The pause that is not over yet, likewise.
    pause: Option<(i64, Duration)>,
    /// Grows only.
    reach: Reach,
}

/// What is read back.
#[derive(Debug)]
pub struct RestoredState {
    /// How long ago each charge that still counts was made, as far as the ledger is concerned. At
    /// most a second ahead.
    pub charges: Vec<SignedDuration>,
    /// The bucket as it was last written down, and how long ago that was.
    pub bucket: Option<(SignedDuration, BucketState)>,
    /// A pause that no call has found to be over, and how long ago it had so long to last.
    pub pause: Option<(SignedDuration, Duration)>,
    pub(super) reach: Reach,
}

/// A process that dies takes its connections with it; what it had written may still arrive for this
/// long.
const LANDING: Duration = Duration::from_secs(1);

/// The charges of a process without the right to rewrite the file have higher numbers, beginning
/// with the moment at which it came.
const BESIDES: u64 = 1 << 63;

/// Of a larger file the end is read: while a process that makes no calls has the right to rewrite
/// it, it grows. What counts is far less.
const LARGEST: u64 = 64 << 20;

impl StateFile {
    /// Opens or creates the file and reads back what still counts.
    ///
    /// A charge that never settled counts as made an attempt after its issue; none later than a
    /// second from now (its process is gone, or the clock was set back). Calls that may be missing
    /// for what is needed are among them.
    ///
    /// `predecessors` may hold calls that count here too, because they were made while the quota
    /// was divided otherwise. Those that were written to after this file are read; what they hold
    /// is part of this file from then on.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is larger than 64 MiB and not a state file.
    pub fn open(
        path: &Path,
        predecessors: &[PathBuf],
        calls: usize,
        window: Duration,
        attempt: Duration,
        reading: &Reading,
    ) -> io::Result<(Self, RestoredState)> {
        // Before it is read: what the one before has written last is in it.
        let lock = lock(path)?;
        let clock = Clock::new(reading);
        let now = clock.now(reading);
        let needed = Reach { window, calls, attempt };
        let Replayed {
            live,
            bucket,
            pause,
            writer,
            reach: written,
        } = replay(&read(path, LARGEST)?, attempt, &clock);
        let mut charges: Vec<_> = live.into_values().collect();
        for predecessor in written_after(path, predecessors) {
            let others = replay(&read(predecessor, LARGEST)?, attempt, &clock).live.into_values();
            charges = united(charges, others.collect());
        }
        let known = written.unwrap_or(needed);
        let reach = known.max(needed);
        let mut charges = counting(charges, reach.window, now);
        let (at, missing) = known.missing(needed, &mut charges, now);
        charges.extend(std::iter::repeat_n(at, missing));
        let ago = |at: i64| SignedDuration::from_micros(now.saturating_sub(at));
        let restored = RestoredState {
            charges: charges.iter().map(|at| ago(*at)).collect(),
            bucket: bucket.map(|(at, bucket)| (ago(at), bucket)),
            pause: pause.map(|(at, left)| (ago(at), left)),
            reach,
        };
        let mut state_file = Self {
            path: path.to_owned(),
            file: append_to(path)?,
            lock,
            clock,
            stepped: false,
            torn: false,
            incomplete: false,
            facts: 0,
            next: charges.len() as u64,
            first: charges.len() as u64,
            // Named anew: whatever numbers the file holds, there are some left.
            live: (0..).zip(charges).collect(),
            bucket,
            pause,
            reach,
        };
        if state_file.lock.is_some() {
            state_file.rewrite(now)?;
        } else {
            // The other one goes on with the lowest numbers, and may be writing.
            state_file.live.clear();
            state_file.next = BESIDES + reading.wall.as_microsecond().unsigned_abs();
            state_file.first = state_file.next;
            state_file.torn = true;
            // What both write means the same clock.
            match writer.filter(|writer| writer.is_same(&state_file.clock)) {
                Some(writer) => state_file.clock = writer,
                None => state_file.stepped = true,
            }
        }
        Ok((state_file, restored))
    }

    /// Remembers further back from now on, never less far: limits may be widened again. See
    /// [`StateFile::open`] for what the values mean.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn extend(&mut self, calls: usize, window: Duration, attempt: Duration, reading: &Reading) -> io::Result<()> {
        let needed = Reach { window, calls, attempt };
        let known = self.reach;
        self.reach = known.max(needed);
        if self.reach == known {
            return Ok(());
        }
        let now = self.clock.now(reading);
        let (at, missing) = known.missing(needed, &mut self.live.values().copied().collect::<Vec<_>>(), now);
        self.live.extend((self.next..).zip(std::iter::repeat_n(at, missing)));
        self.next += missing as u64;
        self.compact(now)
    }

    /// The name of the next call.
    pub(super) fn next_name(&self) -> u64 {
        self.next
    }

    /// Remembers that a call is about to leave, and what it leaves in the bucket; returns its name
    /// for the later facts.
    ///
    /// # Errors
    /// When the file cannot be written. The call may still go, and it may be told how it ended: the
    /// file is written once that is possible.
    pub fn issued(&mut self, reading: &Reading, bucket: BucketState) -> io::Result<u64> {
        let id = self.next;
        self.next += 1;
        let at = self.clock.now(reading);
        self.live.insert(id, at.saturating_add(micros(self.reach.attempt)));
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

    /// Remembers that everybody pauses for so long, or no more.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn paused(&mut self, reading: &Reading, pause: Option<Duration>) -> io::Result<()> {
        let at = self.clock.now(reading);
        self.pause = pause.map(|left| (at, left));
        self.append(reading, |clock| write_pause(clock.to_unix(at), pause))
    }

    /// Writes the file anew if it lacks anything, or if the process that had the right to is gone.
    ///
    /// # Errors
    /// When it still lacks something.
    pub(super) fn mend(&mut self, reading: &Reading) -> io::Result<()> {
        let now = self.clock.now(reading);
        if self.is_beside_another() {
            self.lock = lock(&self.path)?;
            if self.lock.is_some() {
                return self.compact(now);
            }
        }
        self.complete(now).map(drop)
    }

    /// Whether another process has the right to rewrite the file, as far as is known.
    pub(super) fn is_beside_another(&self) -> bool {
        self.lock.is_none()
    }

    /// Likewise; returns whether it was written anew.
    fn complete(&mut self, now: i64) -> io::Result<bool> {
        // Whoever has the right to rewrite it takes over what stands in it, so the rest looks only
        // whether there is one.
        self.incomplete |= !is_in_place(&self.path, self.lock.as_ref().map(|_| &self.file));
        if self.incomplete {
            self.compact(now)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Writes facts down that are in memory already.
    fn append(&mut self, reading: &Reading, facts: impl FnOnce(&Clock) -> String) -> io::Result<()> {
        let now = self.clock.now(reading);
        self.stepped |= self.clock.follow(reading);
        let completed = self.complete(now);
        if matches!(completed, Ok(true)) {
            return Ok(());
        }
        let mut text = String::new();
        if self.stepped {
            text.push_str(&self.clock.write(now));
        }
        text.push_str(&facts(&self.clock));
        // Where there is no room for a whole file there may be some for a line.
        self.write_lines(&text)?;
        completed?;
        self.facts += 1;
        // About ten lines a charge of the longest window: the file stays below a few hundred kB.
        let many = self.reach.calls.saturating_mul(10).max(1000);
        // Everything is written anew when the clock was stepped, because the lines above mean the
        // clock as it was.
        if self.stepped || self.facts > many {
            self.compact(now)
        } else {
            Ok(())
        }
    }

    fn write_lines(&mut self, text: &str) -> io::Result<()> {
        // A full disk may have taken a part of a line; what follows must not become a part of it.
        let separator = if self.torn { "\n" } else { "" };
        let reopened = match self.lock {
            Some(_) => Ok(()),
            // It may have been rewritten.
            None => append_to(&self.path).map(|file| self.file = file),
        };
        let written = reopened.and_then(|()| self.file.write_all(format!("{separator}{text}").as_bytes()));
        self.torn = written.is_err();
        self.incomplete |= self.torn;
        written
    }

    /// Makes the file as short as can be, if this process may; what others have appended stays.
    fn compact(&mut self, now: i64) -> io::Result<()> {
        let whole = !std::mem::replace(&mut self.incomplete, true);
        self.reach.prune(&mut self.live, now);
        if self.lock.is_none() {
            self.lock = lock(&self.path)?;
        }
        if self.lock.is_none() {
            // Of a file that has grown long only the end is read, which has to say it by itself.
            let mut text = self.clock.write(now);
            if !whole {
                self.write_charges(&mut text)?;
            }
            self.write_lines(&text)?;
            (self.stepped, self.incomplete, self.facts) = (false, false, 0);
            return Ok(());
        }
        let own = self.first..self.next;
        let text = read(&self.path, LARGEST)?;
        if !text.is_empty() {
            // What others have written down may have ended since it was last read.
            self.live.retain(|id, _| *id < BESIDES || own.contains(id));
        }
        let written = replay(&text, self.reach.attempt, &self.clock);
        for (id, at) in written.live {
            // How a call of this process ended may not have been written.
            if !own.contains(&id) {
                self.live.entry(id).or_insert(at);
            }
        }
        if whole {
            self.pause = written.pause;
        }
        self.rewrite(now)
    }

    /// Writes what still counts to a new file and puts it in the old one's place, so that a crash
    /// leaves one or the other.
    fn rewrite(&mut self, now: i64) -> io::Result<()> {
        self.reach.prune(&mut self.live, now);
        let mut text = self.clock.write(now);
        text.push_str(&self.reach.write());
        self.write_charges(&mut text)?;
        text.extend(
            self.bucket
                .map(|(at, bucket)| write_bucket(self.clock.to_unix(at), bucket)),
        );
        text.extend(
            self.pause
                .map(|(at, left)| write_pause(self.clock.to_unix(at), Some(left))),
        );
        replace(&self.path, &text)?;
        self.file = append_to(&self.path)?;
        (self.stepped, self.torn, self.incomplete, self.facts) = (false, false, false, 0);
        Ok(())
    }

    fn write_charges(&self, text: &mut String) -> io::Result<()> {
        for (id, at) in &self.live {
            writeln!(text, "s {id} {}", self.clock.to_unix(*at)).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// Those charges that still count.
fn counting(mut charges: Vec<i64>, window: Duration, now: i64) -> Vec<i64> {
    let (oldest, latest) = (now.saturating_sub(micros(window)), now.saturating_add(micros(LANDING)));
    charges.retain(|at| *at > oldest);
    for at in &mut charges {
        *at = latest.min(*at);
    }
    charges
}
