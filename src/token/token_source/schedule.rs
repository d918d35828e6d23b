//! When to ask for the next token.

use std::ops::Range;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

use crate::token::sign_in::Issued;
use crate::token::{Error, aadsts};

/// Without `refresh_in`, a token is renewed after this share of its life. It is a range, so that
/// gateways that were started together do not ask together for ever.
const SHARE: Range<f64> = 0.5..0.8;

/// The least time to recover from an outage of sign-in while the old token is valid, where the
/// token's life allows it.
const RESERVE: Duration = Duration::from_mins(5);

/// A token is not renewed before a quarter of its life or this time is over, whichever comes first,
/// whatever sign-in wishes.
const EARLIEST: Duration = Duration::from_mins(1);

/// Tokens of seconds are not renewed more often than this.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long after a token without the permission the next one is requested, one after the other: a
/// permission that was just granted takes a moment to reach all of sign-in. The last one stays.
const WITHOUT_ROLE: [Duration; 4] = [
    Duration::from_mins(1),
    Duration::from_mins(2),
    Duration::from_mins(5),
    Duration::from_mins(10),
];

/// A rejection is repeated until the operator acts; MSAL waits as long.
const REFUSED: Duration = Duration::from_mins(1);

/// The first repetitions of a rejection that a new app or credential meets too; then [`REFUSED`].
const MAYBE_NEW: [Duration; 4] = [
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
];

/// Reading an unusable credential file again costs nothing.
const UNUSABLE: Duration = Duration::from_secs(10);

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);

/// Up to this much is added to the time that sign-in asked for, which it may have told many at
/// once.
const SPREAD: Duration = Duration::from_millis(500);

/// While requests wait and there is no token, the next request for one leaves within this time
/// after a failed one. It is a range, so that gateways that lost sign-in together do not come back
/// together.
const WAITED_FOR: Range<f64> = 3.0..5.0;

/// How long after a failure sign-in may be asked again for a waiting request, if the delay would be
/// `wait` otherwise: not before the time that sign-in asked for, and a rejection is not repeated
/// because requests wait.
pub(super) fn retry_delay_if_waited_for(error: &Error, wait: Duration) -> Duration {
    match error {
        Error::Refused { .. } => wait,
        Error::Unavailable { .. } => {
            let decent = Duration::from_secs_f64(rand::random_range(WAITED_FOR));
            asked(error).map_or(decent, |asked| asked.max(decent)).min(wait)
        }
    }
}

/// The delay that sign-in asked for, and a random part.
fn asked(error: &Error) -> Option<Duration> {
    let asked = error.retry_after()?;
    Some(asked + SPREAD.mul_f64(rand::random::<f64>()))
}

/// How long after it was requested a token is renewed.
pub(super) fn renewal(issued: &Issued) -> Duration {
    let after = issued.refresh_in.unwrap_or_else(|| {
        let share = issued.life.mul_f64(rand::random_range(SHARE));
        match issued.life.checked_sub(RESERVE) {
            // Half of the life matters more than the reserve: asking too often helps nothing.
            Some(latest) if latest >= issued.life / 2 => share.min(latest),
            _ => share,
        }
    });
    after.max(EARLIEST.min(issued.life / 4)).max(SHORTEST)
}

/// How long after the latest of `count` tokens in a row that lacked the permission the next one is
/// requested.
pub(super) fn renewal_without_role(count: usize) -> Duration {
    let [.., last] = WITHOUT_ROLE;
    let delay = WITHOUT_ROLE.get(count.saturating_sub(1)).unwrap_or(&last);
    // Gateways that were started together do not ask together.
    delay.mul_f64(rand::random_range(0.9..1.1))
}

/// The delays between failed requests with one credential.
#[derive(Debug)]
pub(super) struct Backoff {
    outage: ExponentialBackoff,
    maybe_new: std::array::IntoIter<Duration, 4>,
}

impl Backoff {
    pub(super) fn new() -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(FIRST_BACKOFF)
            .with_max_delay(LONGEST_BACKOFF)
            .without_max_times()
            .with_jitter()
            // Without a seed, every gateway would draw the same numbers.
            .with_jitter_seed(rand::random());
        Self {
            outage: builder.build(),
            maybe_new: MAYBE_NEW.into_iter(),
        }
    }

    /// The delay after `error`: the longer of the one that sign-in asked for and the backoff.
    pub(super) fn after(&mut self, error: &Error) -> Duration {
        let own = match error {
            Error::Refused {
                code: crate::token::Code::Local(_),
                ..
            } => UNUSABLE,
            Error::Refused { code, .. } => {
                let sooner = aadsts::may_be_new(code).then(|| self.maybe_new.next()).flatten();
                sooner.unwrap_or(REFUSED).mul_f64(rand::random_range(1.0..1.1))
            }
            Error::Unavailable { .. } => self.outage.next().unwrap_or(LONGEST_BACKOFF),
        };
        asked(error).map_or(own, |asked| asked.max(own))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::secret::Secret;
    use crate::token::error::Endpoint;
    use crate::token::{Problem, Reason};

    fn issued(life: u64, refresh_in: Option<u64>) -> Issued {
        Issued {
            secret: Secret::new("t".into()),
            life: Duration::from_secs(life),
            refresh_in: refresh_in.map(Duration::from_secs),
            asked: Instant::now(),
            suspended: Duration::ZERO,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sign_ins_own_wish_decides() {
        assert_eq!(renewal(&issued(86_400, Some(43_200))), Duration::from_hours(12));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_to_be_asked_all_the_time_is_not_obeyed() {
        assert_eq!(renewal(&issued(3600, Some(1))), Duration::from_mins(1));
        assert_eq!(renewal(&issued(100, Some(1))), Duration::from_secs(25));
        assert_eq!(renewal(&issued(100, Some(40))), Duration::from_secs(40));
    }

    #[tokio::test(start_paused = true)]
    async fn otherwise_a_random_share_of_the_life_that_leaves_five_minutes() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let hour = renewal(&issued(3599, None)).as_secs();
            assert!((1799..=2880).contains(&hour), "{hour}");
            seen.insert(hour);
            let short = renewal(&issued(700, None)).as_secs();
            assert!((350..=400).contains(&short), "{short}");
            let shorter = renewal(&issued(100, None)).as_secs();
            assert!((50..=80).contains(&shorter), "{shorter}");
        }
        assert!(seen.len() > 50, "only {} different times", seen.len());
        assert_eq!(renewal(&issued(1, None)), SHORTEST);
    }

    #[test]
    fn waits_double_up_to_a_minute_and_obey_the_server() {
        let mut backoff = Backoff::new();
        let outage = Error::unavailable(Reason::Unreachable(Endpoint::Entra));
        let waits: Vec<_> = (0..12).map(|_| backoff.after(&outage).as_secs_f64()).collect();
        for (wait, floor) in waits.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]) {
            assert!((floor..=2.0 * floor).contains(wait), "{waits:?}");
        }
        let long = Error::unavailable(Reason::Throttled).retried_in(Duration::from_mins(10));
        let waits: Vec<_> = (0..12).map(|_| backoff.after(&long)).collect();
        let asked = Duration::from_mins(10)..=Duration::from_mins(10) + SPREAD;
        assert!(waits.iter().all(|wait| asked.contains(wait)), "{waits:?}");
        assert!(
            waits.iter().any(|wait| *wait != waits[0]),
            "many do not come back together"
        );
    }

    #[test]
    fn waiting_callers_shorten_the_delay_of_temporary_failures_only() {
        let (minute, outage) = (
            Duration::from_mins(1),
            Error::unavailable(Reason::Unreachable(Endpoint::Entra)),
        );
        for _ in 0..100 {
            let retry_delay_if_waited_for = retry_delay_if_waited_for(&outage, minute);
            assert!(
                (3.0..=5.0).contains(&retry_delay_if_waited_for.as_secs_f64()),
                "{retry_delay_if_waited_for:?}"
            );
        }
        let second = Duration::from_secs(1);
        assert_eq!(
            retry_delay_if_waited_for(&outage, second),
            second,
            "never later than without"
        );
        let asked = Error::unavailable(Reason::Throttled).retried_in(Duration::from_secs(17));
        let delay = retry_delay_if_waited_for(&asked, minute);
        assert!(
            (Duration::from_secs(17)..=Duration::from_secs(17) + SPREAD).contains(&delay),
            "{delay:?}"
        );
        let refused = Error::Refused {
            code: crate::token::Code::Aadsts(7_000_222),
            message: "".into(),
            retry_after: Duration::ZERO,
        };
        assert_eq!(retry_delay_if_waited_for(&refused, minute), minute);
    }

    #[test]
    fn local_problems_are_rechecked_sooner_than_rejections() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.after(&Error::unusable(Problem::NoPrivateKey, "")), UNUSABLE);
        let refused = Error::Refused {
            code: crate::token::Code::Aadsts(7_000_222),
            message: "".into(),
            retry_after: Duration::ZERO,
        };
        let wait = backoff.after(&refused);
        assert!((REFUSED..=REFUSED * 11 / 10).contains(&wait), "{wait:?}");
    }

    #[test]
    fn what_may_be_new_is_asked_again_soon_but_four_times_only_and_not_before_it_may() {
        let refused = |seconds| Error::Refused {
            code: crate::token::Code::Aadsts(7_000_215),
            message: "".into(),
            retry_after: Duration::from_secs(seconds),
        };
        let mut backoff = Backoff::new();
        for seconds in [5, 10, 20, 40, 60, 60, 60] {
            let (wait, least) = (backoff.after(&refused(0)), Duration::from_secs(seconds));
            assert!((least..=least * 11 / 10).contains(&wait), "{wait:?} for {least:?}");
        }
        assert!(Backoff::new().after(&refused(300)) >= Duration::from_mins(5));
    }
}
