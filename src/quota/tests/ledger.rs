//! The ledger against a brute-force model.

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::quota::ledger::{Charge, Ledger};

/// What the model knows of a call: the span in which it may have reached the upstream.
#[derive(Clone, Copy, Debug)]
struct Call {
    charge: Charge,
    issued: Instant,
    ended: Option<Instant>,
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Issue,
    Settle(usize),
    Refund(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..400).prop_map(Step::Wait),
        6 => Just(Step::Issue),
        4 => (0_usize..8).prop_map(Step::Settle),
        1 => (0_usize..8).prop_map(Step::Refund),
    ];
    prop::collection::vec(step, 1..400)
}

/// Counts every call, one by one, as the rule says.
fn model_allows(calls: &[Call], limits: &[Limit], attempt: Duration, now: Instant) -> bool {
    limits.iter().all(|limit| {
        let inside = calls.iter().filter(|call| {
            let latest = call.issued + attempt;
            let counted = call.ended.or((latest <= now).then_some(latest));
            counted.is_none_or(|at| now < at + limit.hold())
        });
        inside.count() < limit.calls()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_ledger_lets_go_exactly_when_the_model_does(steps in steps()) {
        let limits = vec![limit(3, Duration::from_millis(500)), limit(7, Duration::from_secs(2))];
        let attempt = Duration::from_millis(900);
        let mut now = Instant::now();
        let mut ledger = Ledger::new(limits.clone(), attempt);
        let mut calls: Vec<Call> = Vec::new();
        for step in steps {
            ledger.sweep(now);
            let pending_calls: Vec<usize> = (0..calls.len())
                .filter(|index| calls[*index].ended.is_none() && now < calls[*index].issued + attempt)
                .collect();
            prop_assert_eq!(ledger.in_flight(), pending_calls.len());
            let allowed = model_allows(&calls, &limits, attempt, now);
            prop_assert_eq!(ledger.opening(now).is_some_and(|at| at <= now), allowed);
            match step {
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Issue if allowed => calls.push(Call { charge: ledger.issue(now), issued: now, ended: None }),
                Step::Issue => {
                    // The moment it names is the first at which the model agrees, if nothing else
                    // happens.
                    if let Some(at) = ledger.opening(now)
                        && pending_calls.is_empty()
                    {
                        prop_assert!(model_allows(&calls, &limits, attempt, at));
                        prop_assert!(!model_allows(&calls, &limits, attempt, at - Duration::from_nanos(1)));
                    }
                }
                Step::Settle(pick) if !pending_calls.is_empty() => {
                    let call = &mut calls[pending_calls[pick % pending_calls.len()]];
                    ledger.settle(call.charge, now);
                    call.ended = Some(now);
                }
                Step::Refund(pick) if !pending_calls.is_empty() => {
                    let call = calls.remove(pending_calls[pick % pending_calls.len()]);
                    ledger.refund(call.charge);
                }
                Step::Settle(_) | Step::Refund(_) => {}
            }
            prop_assert!(ledger.past().len() <= 7, "memory is bounded by the largest limit");
        }
    }
}

#[test]
fn ending_a_charge_twice_counts_once() {
    let now = Instant::now();
    let mut ledger = Ledger::new(vec![limit(2, MINUTE)], TIMEOUT);
    let charge = ledger.issue(now);
    ledger.settle(charge, now);
    ledger.settle(charge, now);
    ledger.refund(charge);
    assert_eq!(ledger.used(&limit(2, MINUTE), now), 1);
}
