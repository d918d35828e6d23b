use std::cell::LazyCell;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use defender_gateway::testing::clock::{BootTime, Reading, Wall};
use defender_gateway::testing::quota::{self, Config, Limit, Quota, StateFile};
use jiff::{SignedDuration, Timestamp};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

const HOUR: Duration = Duration::from_hours(1);
/// With the margin for clocks that drift apart.
const HOLD: Duration = Duration::from_millis(3_600_361);
const ATTEMPT: Duration = Duration::from_mins(1);

/// The clocks of the machine; a corpus may name its boot.
fn now() -> Reading {
    Reading {
        wall: Timestamp::from_second(1_790_000_000).expect("a moment of our time"),
        boot: Some(BootTime {
            boot_id: "boot".into(),
            elapsed: HOUR * 2,
        }),
    }
}

thread_local! {
    static FOLDER: LazyCell<tempfile::TempDir> = LazyCell::new(|| tempfile::tempdir().expect("a folder"));
}

fn file() -> PathBuf {
    FOLDER.with(|folder| folder.path().join("state"))
}

/// How long ago the charges that still count were made, as [`StateFile::open`] sees them.
fn charges() -> Vec<SignedDuration> {
    let (_, restored) = StateFile::open(&file(), &[], 1500, HOLD, ATTEMPT, &now()).expect("a file of our own");
    restored.charges
}

/// The content of a state file. It can be opened whatever it holds, and says the same once it is
/// made compact; no charge is later than a second from now; calls go on, and are remembered too.
pub(crate) fn state(data: &[u8]) {
    std::fs::write(file(), data).expect("a file of our own");
    let mut first = charges();
    first.sort();
    let latest = SignedDuration::from_secs(-1);
    assert!(first.iter().all(|ago| *ago >= latest), "{first:?}");
    let mut again = charges();
    again.sort();
    assert_eq!(first, again);

    super::at_once(async {
        let limit = Limit::try_new(NonZeroU32::MIN.saturating_add(99), HOUR).expect("a limit");
        let config = Config::try_new(vec![limit.clone()], NonZeroU32::MIN, ATTEMPT).expect("a quota");
        let config = config.state_file(Some(file()));
        let metrics = quota::Metrics::register(&mut Registry::default());
        let quota = Quota::open(&config, Wall::anchored(now().wall), metrics).expect("a file of our own");
        let used = quota.snapshot().windows[0].used;
        let hold = SignedDuration::try_from(HOLD).expect("an hour");
        let inside = first.iter().filter(|ago| **ago < hold).count();
        assert_eq!(used, inside, "every charge of the file that is inside counts");
        if let Ok(permit) = quota.take(Instant::now()) {
            permit.settle();
            assert_eq!(charges().len(), first.len() + 1);
        }
    });
}
