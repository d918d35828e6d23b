//! Small limits are used up as well.

use tokio::time::Instant;

use super::*;
use crate::quota::{Account, Pacing};

const SECOND: Duration = Duration::from_secs(1);

/// Calls that leave in two minutes when somebody always waits and each is answered after 200 ms.
fn saturated(config: &Config) -> usize {
    let start = Instant::now();
    let mut account = Account::new(config, start);
    let (mut now, mut calls) = (start, 0);
    let mut flying = std::collections::VecDeque::new();
    while now < start + 120 * SECOND {
        while let Some((_, charge)) = flying.pop_front_if(|(at, _)| *at <= now) {
            account.settle(charge, now);
        }
        let at = match account.take(now) {
            Ok(charge) => {
                flying.push_back((now + SECOND / 5, charge));
                calls += 1;
                continue;
            }
            Err(at) => at,
        };
        let answer = flying.front().map(|(at, _)| *at);
        now = at.into_iter().chain(answer).min().unwrap().max(now + SECOND / 1000);
    }
    calls
}

#[test]
fn as_many_calls_leave_as_the_ledger_allows() {
    for calls in [1, 2, 3, 5, 10] {
        let limits = vec![limit(calls, 10 * SECOND)];
        let config = Config::try_new(limits, NonZeroU32::new(calls).unwrap(), TIMEOUT).unwrap();
        let (spread, unpaced) = (saturated(&config), saturated(&config.clone().pacing(Pacing::None)));
        println!("{calls}/10s: {spread} in two minutes, {unpaced} when nothing is spread");
        let least = if calls == 1 {
            unpaced
        } else {
            unpaced * calls as usize / (calls as usize + 1)
        };
        assert!(spread + 1 >= least, "{calls}/10s: {spread} instead of {unpaced}");
    }
}
