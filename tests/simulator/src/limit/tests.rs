use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn limits(text: &str) -> Vec<Limit> {
    text.split(',').map(|limit| limit.parse().unwrap()).collect()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_limit_is_calls_per_window_with_a_unit() {
    let limit: Limit = " 1500/1h ".parse().unwrap();
    assert_eq!((limit.calls(), limit.window()), (1500, Duration::from_hours(1)));
    assert_eq!(limit.to_string(), "1500/1h");
    assert_eq!("100/60s".parse::<Limit>().unwrap().to_string(), "100/1m");
}

#[test]
fn an_invalid_limit_says_what_is_wrong() {
    for (text, part) in [
        ("100", "a slash"),
        ("x/1m", "number of calls"),
        ("0/1m", "number of calls"),
        ("-1/1m", "number of calls"),
        ("100/60", "unit"),
        ("100/0s", "longer than zero"),
        ("100/2w", "unit"),
        ("100/25h", "a day"),
    ] {
        let error = text.parse::<Limit>().unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn the_window_reads_as_the_service_writes_it() {
    let clock = |text: &str| text.parse::<Limit>().unwrap().clock();
    assert_eq!(clock("30/1m"), "00:01:00");
    assert_eq!(clock("1500/1h"), "01:00:00");
    assert_eq!(clock("1/250ms"), "00:00:00.2500000");
}

#[test]
fn an_anchored_window_lets_two_windows_worth_through_around_its_end() {
    let mut limiter = Limiter::new(Shape::Anchored, &limits("2/1s"));
    let admitted: Vec<bool> = [0, 990, 1_000, 1_010, 1_020]
        .map(|at| limiter.arrive(ms(at)).is_ok())
        .into();
    assert_eq!(admitted, [true, true, true, true, false]);
}

#[test]
fn an_aligned_window_starts_at_multiples_of_its_length() {
    let mut limiter = Limiter::new(Shape::Aligned, &limits("1/1s"));
    assert!(limiter.arrive(ms(1_900)).is_ok());
    assert_eq!(limiter.arrive(ms(1_950)).unwrap_err().retry_after, ms(50));
    assert!(limiter.arrive(ms(2_000)).is_ok());
}

#[test]
fn a_sliding_log_frees_a_place_exactly_one_window_later() {
    let mut limiter = Limiter::new(Shape::SlidingLog, &limits("2/1s")).counting(Rejected::Ignore);
    assert!(limiter.arrive(ms(0)).is_ok());
    assert!(limiter.arrive(ms(600)).is_ok());
    assert_eq!(limiter.arrive(ms(999)).unwrap_err().retry_after, ms(1));
    assert!(limiter.arrive(ms(1_000)).is_ok());
    assert_eq!(limiter.arrive(ms(1_001)).unwrap_err().retry_after, ms(599));
}

#[test]
fn a_token_bucket_refills_evenly() {
    let mut limiter = Limiter::new(Shape::TokenBucket, &limits("4/1s"));
    for _ in 0..4 {
        assert!(limiter.arrive(ms(0)).is_ok());
    }
    assert_eq!(limiter.arrive(ms(0)).unwrap_err().retry_after, ms(250));
    assert!(limiter.arrive(ms(250)).is_ok());
    assert!(limiter.arrive(ms(499)).is_err());
}

#[test]
fn refused_calls_that_count_keep_a_hammering_caller_out() {
    for shape in [Shape::SlidingLog, Shape::TokenBucket] {
        let admitted = |rejected| {
            let mut limiter = Limiter::new(shape, &limits("5/1s")).counting(rejected);
            (0..1_000).filter(|i| limiter.arrive(ms(i * 10)).is_ok()).count()
        };
        assert!(admitted(Rejected::Ignore) >= 50, "{shape}");
        assert!(admitted(Rejected::Count) <= 10, "{shape}");
    }
}

#[test]
fn the_limit_that_keeps_out_longest_is_named() {
    let mut limiter = Limiter::new(Shape::Anchored, &limits("1/1s,2/1m")).counting(Rejected::Ignore);
    assert!(limiter.arrive(ms(0)).is_ok());
    assert_eq!(limiter.arrive(ms(10)).unwrap_err().limit.to_string(), "1/1s");
    assert!(limiter.arrive(ms(2_000)).is_ok());
    let refused = limiter.arrive(ms(2_010)).unwrap_err();
    assert_eq!(refused.limit.to_string(), "2/1m");
    assert_eq!(refused.retry_after, ms(57_990));
}

#[test]
fn a_refused_call_that_counts_is_charged_to_every_limit() {
    let mut limiter = Limiter::new(Shape::Anchored, &limits("1/1s,2/1m"));
    assert!(limiter.arrive(ms(0)).is_ok());
    assert_eq!(limiter.arrive(ms(10)).unwrap_err().limit.to_string(), "2/1m");
}

#[test]
fn time_never_runs_backwards_in_a_limiter() {
    let mut limiter = Limiter::new(Shape::TokenBucket, &limits("1/1s"));
    assert!(limiter.arrive(ms(5_000)).is_ok());
    assert_eq!(limiter.arrive(ms(1_000)).unwrap_err().retry_after, ms(1_000));
}

#[test]
fn a_verifier_counts_half_open_windows() {
    let mut judge = QuotaVerifier::new(&limits("1/1s"));
    judge.extend([ms(1_000), ms(0)]);
    assert!(judge.is_satisfied());
    judge.extend([ms(1_999)]);
    let finding = judge.findings()[0];
    assert_eq!((finding.most, finding.from), (2, ms(1_000)));
    assert_eq!(finding.to_string(), "OVER 1/1s: 2 in the window from 1s");
}

#[test]
fn a_verifier_without_arrivals_is_satisfied() {
    let judge = QuotaVerifier::new(&Limit::documented());
    assert!(judge.is_satisfied());
    assert_eq!(judge.findings()[1].most, 0);
    assert_eq!(judge.findings()[0].to_string(), "within 100/1m: no call");
}

/// A slow, simple limiter: it keeps every charge and counts all of them at every arrival.
struct Obvious {
    shape: Shape,
    limits: Vec<Limit>,
    rejected: Rejected,
    charges: Vec<Duration>,
}

impl Obvious {
    fn arrive(&mut self, at: Duration) -> bool {
        let admitted = self.limits.iter().all(|limit| self.has_room(*limit, at));
        if admitted || self.rejected == Rejected::Count {
            self.charges.push(at);
        }
        admitted
    }

    fn has_room(&self, limit: Limit, at: Duration) -> bool {
        let window = limit.window();
        let calls = limit.calls() as usize;
        let within = |from: Duration| self.charges.iter().filter(|charge| **charge >= from).count();
        match self.shape {
            Shape::SlidingLog => {
                let recent = self.charges.iter().filter(|charge| at < **charge + window);
                recent.count() < calls
            }
            Shape::Aligned => {
                let index = at.as_nanos() / window.as_nanos();
                within(Duration::from_nanos_u128(index * window.as_nanos())) < calls
            }
            Shape::Anchored => {
                let mut start = None::<Duration>;
                for charge in self.charges.iter().chain([&at]) {
                    if start.is_none_or(|start| *charge >= start + window) {
                        start = Some(*charge);
                    }
                }
                within(start.unwrap()) < calls
            }
            Shape::TokenBucket => {
                let full = calls as u128 * window.as_nanos();
                let refilled = |level: u128, gap: Duration| (level + gap.as_nanos() * calls as u128).min(full);
                let (mut level, mut last) = (full, Duration::ZERO);
                for charge in &self.charges {
                    level = refilled(level, charge.saturating_sub(last)).saturating_sub(window.as_nanos());
                    last = *charge;
                }
                level = refilled(level, at.saturating_sub(last));
                level >= window.as_nanos()
            }
        }
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    prop::sample::select(Shape::ALL.to_vec())
}

fn some_limits() -> impl Strategy<Value = Vec<Limit>> {
    prop::collection::vec((1u32..6, 1u64..400), 1..3).prop_map(|pairs| {
        let limit = |(calls, window): (u32, u64)| Limit {
            calls: calls.try_into().unwrap(),
            window: ms(window),
        };
        pairs.into_iter().map(limit).collect()
    })
}

/// Gaps between arrivals: mostly none or small, at times exactly or about a window.
fn arrivals() -> impl Strategy<Value = Vec<Duration>> {
    let gap = prop_oneof![3 => Just(0u64), 5 => 0u64..60, 1 => 100u64..900];
    prop::collection::vec(gap, 0..80).prop_map(|gaps| {
        let mut at = 0;
        gaps.into_iter()
            .map(|gap| {
                at += gap;
                ms(at)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn every_shape_decides_as_the_simple_limiter_does(
        shape in shapes(), limits in some_limits(), times in arrivals(),
        rejected in prop::sample::select(vec![Rejected::Count, Rejected::Ignore]),
    ) {
        let mut limiter = Limiter::new(shape, &limits).counting(rejected);
        let mut obvious = Obvious { shape, limits, rejected, charges: Vec::new() };
        for at in times {
            prop_assert_eq!(limiter.arrive(at).is_ok(), obvious.arrive(at), "{} at {:?}", shape, at);
        }
    }

    #[test]
    fn the_wait_named_is_true_and_not_too_long(shape in shapes(), limits in some_limits(), times in arrivals()) {
        let mut limiter = Limiter::new(shape, &limits);
        for at in times {
            if let Err(rejection) = limiter.arrive(at) {
                let back = at + rejection.retry_after;
                prop_assert!(limiter.clone().arrive(back).is_ok());
                prop_assert!(limiter.clone().arrive(back.saturating_sub(Duration::from_nanos(1))).is_err());
            }
        }
    }

    #[test]
    fn a_client_that_satisfies_the_verifier_is_never_refused(shape in shapes(), limits in some_limits(), times in arrivals()) {
        let mut limiter = Limiter::new(shape, &limits);
        let mut sent = Vec::<Duration>::new();
        for at in times {
            let room = |limit: &Limit| {
                sent.iter().filter(|s| at < **s + limit.window()).count() < limit.calls() as usize
            };
            if limits.iter().all(room) {
                sent.push(at);
                prop_assert!(limiter.arrive(at).is_ok(), "{} at {:?}", shape, at);
            }
        }
        let mut judge = QuotaVerifier::new(&limits);
        judge.extend(sent);
        prop_assert!(judge.is_satisfied());
    }

    #[test]
    fn the_verifier_finds_the_fullest_window(limits in some_limits(), times in arrivals()) {
        let mut judge = QuotaVerifier::new(&limits);
        judge.extend(times.iter().rev().copied());
        // Every relevant window starts at an arrival or just after one.
        let starts: BTreeSet<_> = times.iter().flat_map(|at| [*at, *at + Duration::from_nanos(1)]).collect();
        for finding in judge.findings() {
            let inside = |from: &Duration| {
                times.iter().filter(|at| **at >= *from && **at < *from + finding.limit.window()).count()
            };
            prop_assert_eq!(finding.most, starts.iter().map(inside).max().unwrap_or(0));
            prop_assert_eq!(finding.most, inside(&finding.from));
        }
    }
}
