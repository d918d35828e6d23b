//! The lines of the state file, and the clock that their times mean.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::pacer::BucketState;
use super::state_reach::Reach;
use crate::clock::Reading;

/// The clock that this process keeps its facts on, in microseconds: since boot where the system
/// tells that, else of the wall.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    boot_id: Option<Arc<str>>,
    /// Unix time is this much more, or was when it was last looked at.
    offset: i64,
}

impl Clock {
    /// A wall clock that was corrected by less than this keeps its offset; more is written down.
    const STEP: i64 = 1_000_000;

    pub(super) fn new(reading: &Reading) -> Self {
        let boot = reading.boot.as_ref();
        let mut clock = Self {
            boot_id: boot.map(|boot| Arc::clone(&boot.boot_id)),
            offset: 0,
        };
        clock.offset = reading.wall.as_microsecond() - clock.now(reading);
        clock
    }

    pub(super) fn now(&self, reading: &Reading) -> i64 {
        match (&self.boot_id, &reading.boot) {
            (Some(_), Some(boot)) => micros(boot.elapsed),
            _ => reading.wall.as_microsecond(),
        }
    }

    /// Follows the wall clock. Returns whether it was stepped.
    pub(super) fn follow(&mut self, reading: &Reading) -> bool {
        let now = Self::new(reading);
        let is_stepped = (now.offset - self.offset).abs() > Self::STEP;
        if is_stepped {
            self.offset = now.offset;
        }
        is_stepped
    }

    /// Whether both count from the same boot.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.boot_id == other.boot_id
    }

    pub(super) fn to_unix(&self, at: i64) -> i64 {
        at.saturating_add(self.offset)
    }

    /// The line that says what the Unix times below it mean.
    pub(super) fn write(&self, now: i64) -> String {
        let boot_id = self.boot_id.as_ref();
        boot_id.map_or_else(String::new, |boot_id| {
            format!("c {boot_id} {now} {}\n", self.to_unix(now))
        })
    }

    /// How to read the lines below that line; `None` when it is not one.
    fn read(words: &str) -> Option<Self> {
        let (boot_id, words) = words.split_once(' ').filter(|(id, _)| !id.is_empty())?;
        let [at, unix] = numbers::<i64, 2>(words)?;
        Some(Self {
            boot_id: Some(boot_id.into()),
            offset: unix.saturating_sub(at),
        })
    }

    /// The moment on this clock that another process wrote down as that Unix time.
    fn translate(&self, writer: Option<&Self>, unix: i64) -> i64 {
        let offset = match writer {
            Some(writer) if writer.is_same(self) => writer.offset,
            _ => self.offset,
        };
        unix.saturating_sub(offset)
    }
}

/// The line that says what the bucket held at that Unix time, all in whole numbers: microseconds,
/// millionths of a call, billionths of a call per second.
pub(super) fn write_bucket(unix: i64, bucket: BucketState) -> String {
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
    let (unix, words) = words.split_once(' ')?;
    let [level, rate, lasts] = numbers::<u64, 3>(words)?;
    let bucket = BucketState {
        level: level as f64 / 1e6,
        rate: rate as f64 / 1e9,
        lasts: Duration::from_micros(lasts),
    };
    Some((unix.parse().ok()?, bucket))
}

/// The line that says for how long everybody pauses from that Unix time on, in microseconds; no
/// time at all: a pause is over.
pub(super) fn write_pause(unix: i64, pause: Option<Duration>) -> String {
    let left = pause.map_or(0, |left| left.as_micros().max(1));
    format!("p {unix} {left}\n")
}

/// What that line says; `None` when it is not one.
fn read_pause(words: &str) -> Option<(i64, Duration)> {
    let (unix, left) = words.split_once(' ')?;
    Some((unix.parse().ok()?, Duration::from_micros(left.parse().ok()?)))
}

/// What the lines of a file come to.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// When each charge counts as made.
    pub(super) live: BTreeMap<u64, i64>,
    /// The last bucket, and when it was written down.
    pub(super) bucket: Option<(i64, BucketState)>,
    /// The pause that was not over yet: when that was written down, and how long it was to last.
    pub(super) pause: Option<(i64, Duration)>,
    /// The clock that further lines would mean.
    pub(super) writer: Option<Clock>,
    /// What the file is kept for; an older version does not say.
    pub(super) reach: Option<Reach>,
}

/// Reads `text`; times are on this clock.
pub(super) fn replay(text: &str, attempt: Duration, clock: &Clock) -> Replayed {
    let mut replayed = Replayed::default();
    // A line without its end is torn; what it says may be cut off.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        if let Some((kind, words)) = line.split_once(' ') {
            // A line that cannot be read is skipped.
            let _ = replayed.read(kind, words, attempt, clock);
        }
    }
    replayed
}

impl Replayed {
    /// Takes a line in; `None` when it cannot be read.
    fn read(&mut self, kind: &str, words: &str, attempt: Duration, clock: &Clock) -> Option<()> {
        let moment = |unix| clock.translate(self.writer.as_ref(), unix);
        match kind {
            "c" => self.writer = Some(Clock::read(words)?),
            "w" => self.reach = Some(Reach::read(words)?),
            "b" => self.bucket = Some(read_bucket(words).map(|(unix, bucket)| (moment(unix), bucket))?),
            "p" => {
                let (unix, left) = read_pause(words)?;
                self.pause = Some((moment(unix), left)).filter(|_| !left.is_zero());
            }
            "i" | "s" | "r" => {
                let (id, unix) = words.split_once(' ')?;
                let (id, at) = (id.parse().ok()?, moment(unix.parse().ok()?));
                // As long as who made the call allowed for, or those who read it.
                let attempt = self.reach.map_or(attempt, |reach| reach.attempt.max(attempt));
                match kind {
                    "i" => _ = self.live.insert(id, at.saturating_add(micros(attempt))),
                    "s" => _ = self.live.insert(id, at),
                    _ => _ = self.live.remove(&id),
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// All charges of two files. Both may have the same one, which one of them took over from the
/// other, and with it its time in microseconds; it counts once.
pub(super) fn united(mut charges: Vec<i64>, mut others: Vec<i64>) -> Vec<i64> {
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

/// Exactly so many whole numbers.
pub(super) fn numbers<T: FromStr, const N: usize>(words: &str) -> Option<[T; N]> {
    let numbers: Option<Vec<T>> = words.split(' ').map(|word| word.parse().ok()).collect();
    numbers?.try_into().ok()
}

/// Whole microseconds.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
