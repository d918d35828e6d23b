//! What becomes of an attempt decides what becomes of its slot.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::Instant;
use tower::service_fn;

use super::{after, documented};
use crate::attempt::{Admitted, Attempt, Charged, Delivery, Failure, QueuePosition, Retries, RetryHint};
use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
use crate::clock::Wall;
use crate::middleware::{Middleware as _, Next};
use crate::quota::{Charging, Metrics, Permit, Quota};
use crate::scan::{Endpoint, Headers, Request, UpstreamResponse};

fn wall() -> Wall {
    Wall::anchored(jiff::Timestamp::from_second(1_790_000_000).unwrap())
}

pub(in crate::quota) fn charging() -> Charging {
    Charging {
        wall: wall(),
        registration: 0,
    }
}

fn quota() -> Quota {
    Quota::ephemeral(&documented(), wall(), Metrics::default())
}

fn admitted(quota: &Quota) -> Admitted<Permit> {
    admitted_with(quota.take(Instant::now()).unwrap())
}

pub(in crate::quota) fn admitted_with(permit: Permit) -> Admitted<Permit> {
    let now = Instant::now();
    let caller = Caller {
        name: Name::new("a"),
        urgency: Urgency::default(),
        deadline: after(now, 30),
        wait: None,
        cache_directives: CacheDirectives::default(),
        request_id: RequestId::random(),
        trace: crate::telemetry::trace::Trace::None,
        has_fallback: false,
    };
    Admitted {
        attempt: Attempt {
            request: Arc::new(Request::plain(Endpoint::HISTORY, ["a"]).unwrap()),
            caller: Arc::new(caller),
            position: QueuePosition::new(now),
            retries: Retries::default(),
        },
        permit,
    }
}

fn used(quota: &Quota) -> usize {
    quota.snapshot().windows[0].used
}

fn answer(status: StatusCode, fields: &[(&'static str, &'static str)]) -> UpstreamResponse {
    let field =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    UpstreamResponse {
        status,
        headers: fields.iter().map(field).collect::<Headers>(),
        body: Bytes::new(),
    }
}

fn lost(delivery: Delivery) -> Failure {
    Failure {
        delivery,
        again: RetryHint::Once,
        answer: None,
        source: "lost".into(),
    }
}

/// A service below that answers so.
pub(in crate::quota) fn below(
    outcome: impl Fn() -> Result<UpstreamResponse, Failure> + Clone + Send + Sync + 'static,
) -> Next<Charged> {
    Next::new(service_fn(move |_: Charged| std::future::ready(outcome())))
}

#[tokio::test(start_paused = true)]
async fn a_slot_goes_back_only_if_the_call_has_provably_not_arrived() {
    for (delivery, counts) in [
        (Delivery::NoSlot, 0),
        (Delivery::NotSent, 0),
        (Delivery::Unknown, 1),
        (Delivery::Answered, 1),
    ] {
        let quota = quota();
        let failed = charging()
            .call(admitted(&quota), &below(move || Err(lost(delivery))))
            .await;
        assert_eq!((failed.unwrap_err().delivery, used(&quota)), (delivery, counts));
    }
    let quota = quota();
    let ok = below(|| Ok(answer(StatusCode::OK, &[])));
    charging().call(admitted(&quota), &ok).await.unwrap();
    assert_eq!(used(&quota), 1);
    // Nobody asked for it yet.
    drop(charging().call(admitted(&quota), &ok));
    assert_eq!(used(&quota), 1);
    // It is under way when its caller leaves.
    let silent = Next::new(service_fn(|_: Charged| std::future::pending()));
    assert!(charging().call(admitted(&quota), &silent).now_or_never().is_none());
    assert_eq!(used(&quota), 2);
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_all_and_says_for_how_long_in_one_field() {
    let quota = quota();
    let refused = below(|| {
        let fields = [
            ("retry-after", "8"),
            ("x-ms-retry-after-ms", "29500"),
            ("content-type", "a/b"),
        ];
        Ok(answer(StatusCode::TOO_MANY_REQUESTS, &fields))
    });
    let failed = charging().call(admitted(&quota), &refused).await.unwrap_err();
    assert_eq!((failed.again, used(&quota)), (RetryHint::WhenAllowed, 1));
    let told = failed.answer.unwrap().headers;
    let told: Vec<_> = told
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(told, [("content-type", "a/b"), ("retry-after", "30")]);
    assert!(quota.take(Instant::now()).is_err());

    // A registration that is not used any more has nothing to wait for here.
    let quota = self::quota();
    let before = admitted(&quota);
    quota.forget_refusals(1);
    let failed = charging().call(before, &refused).await.unwrap_err();
    assert_eq!(failed.again, RetryHint::Never);
    let told = failed.answer.unwrap().headers;
    assert_eq!(told.get("retry-after").unwrap(), "1", "never zero");
    assert!(quota.take(Instant::now()).is_ok());
}
