//! A leader that hangs up, at every possible point.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, poll_fn};
use tokio::task::yield_now;
use tower::{Layer as _, service_fn};

use super::fixture::{RecordingSink, caller, failure, predicted_wait, request, rows};
use crate::BoxError;
use crate::attempt::{Attempt, RetryHint};
use crate::middleware::{self, Next};
use crate::scan::{CacheSink, Call, Request, ServedResponse, UpstreamProfile};
use crate::single_flight::driver::Below;
use crate::single_flight::{BatchConfig, BatchWhen, Config, Metrics, SingleFlight};
use crate::task::Tasks;

/// What else happens.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Another request waits for its slot.
    merged: bool,
    /// The first call fails.
    lost: bool,
    /// The first answer cannot be split.
    doubtful: bool,
}

/// A service in which every step takes some polls. The first call with the leader's request fails
/// or cannot be split.
fn below(case: Case, calls: &Arc<AtomicUsize>) -> Below {
    let (calls, leaders) = (Arc::clone(calls), Arc::new(AtomicUsize::new(0)));
    Below::new(service_fn(move |attempt: Attempt| {
        let (calls, leaders) = (Arc::clone(&calls), Arc::clone(&leaders));
        async move {
            for _ in 0..3 {
                yield_now().await;
            }
            let request = attempt.request.bind().unwrap();
            calls.fetch_add(1, Ordering::Relaxed);
            let for_leader = request.ids().any(|id| id == "a");
            let is_first = for_leader && leaders.fetch_add(1, Ordering::Relaxed) == 0;
            for _ in 0..3 {
                yield_now().await;
            }
            if is_first && case.lost {
                return Err(failure(RetryHint::Once));
            }
            if is_first && case.doubtful {
                return Ok(super::fixture::answer("not json"));
            }
            Ok(rows(&request))
        }
    }))
}

fn flights(
    case: Case,
    tasks: &Tasks,
    calls: &Arc<AtomicUsize>,
) -> (SingleFlight, Next<Call, ServedResponse, BoxError>) {
    let merge = BatchConfig {
        when: BatchWhen::Always,
        max_ids: 9.try_into().unwrap(),
        gather: Duration::ZERO,
    };
    let config = Config {
        merge: case.merged.then_some(merge),
        attempt: Duration::from_mins(1),
    };
    let cache_sink = Arc::<RecordingSink>::default() as Arc<dyn CacheSink>;
    let predicted_wait = predicted_wait(Duration::from_secs(1));
    let upstream_profile = Arc::new(UpstreamProfile::new(1000));
    let single_flight = SingleFlight::new(
        config,
        tasks.clone(),
        cache_sink,
        upstream_profile,
        predicted_wait,
        Metrics::default(),
    );
    let flights = middleware::layer(single_flight.clone()).layer(below(case, calls));
    (single_flight, flights)
}

fn call(id: &str, name: &str) -> (Request, Call) {
    let request = request(&[id]);
    let call = Call {
        request: Arc::new(request.clone()),
        caller: Arc::new(caller(name, 30)),
    };
    (request, call)
}

/// Lets the leader hang up after `moments` polls; `false` when it had its answer before.
async fn hang_up(case: Case, moments: usize) -> bool {
    let (tasks, calls) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
    let (single_flight, flights) = flights(case, &tasks, &calls);
    let mut leader: Option<BoxFuture<'_, Result<ServedResponse, BoxError>>> =
        Some(flights.call(call("a", "leader").1).boxed());
    let mut asked = Vec::new();
    for id in ["a", "a", "b"] {
        let (request, call) = call(id, "follower");
        asked.push((request, tasks.spawn("test", flights.call(call))));
    }
    let mut answered = false;
    for moment in 0.. {
        if moment == moments {
            leader = None;
        }
        if let Some(future) = &mut leader
            && poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
        {
            (leader, answered) = (None, true);
        }
        if leader.is_none() && asked.iter().all(|(_, asked)| asked.is_finished()) {
            break;
        }
        assert!(
            moment < 1000,
            "{case:?}: hung up after {moments}: a follower is not answered"
        );
        yield_now().await;
    }
    // A follower that became the leader because the first one left early enough.
    let mut may_be_told = case.lost && !case.merged && !answered;
    for (request, asked) in asked {
        let served = match asked.await.unwrap() {
            Ok(served) => served,
            // The leader of a call that fails gets the failure, once.
            Err(error) => {
                let told = std::mem::take(&mut may_be_told);
                assert!(told, "{case:?}: hung up after {moments}: {error}");
                continue;
            }
        };
        assert_eq!(
            served.answer.body,
            rows(&request).body,
            "{case:?}: hung up after {moments}"
        );
    }
    assert_eq!(
        tasks.finish(Duration::from_mins(1)).await,
        0,
        "{case:?}: a task is left"
    );
    assert_eq!(single_flight.flight_table.len(), 0, "{case:?}: a flight is left");
    // One call for each request and one repetition; both again after a failed split.
    assert!(calls.load(Ordering::Relaxed) <= 3, "{case:?}: {calls:?} calls");
    !answered
}

#[tokio::test(start_paused = true)]
async fn followers_are_answered_at_whatever_moment_the_leader_hangs_up() {
    for (merged, lost, doubtful) in [
        (false, false, false),
        (false, true, false),
        (true, false, false),
        (true, true, false),
        (true, false, true),
    ] {
        let case = Case { merged, lost, doubtful };
        let mut moments = 0;
        while hang_up(case, moments).await {
            moments += 1;
        }
        assert!(moments > 6, "{case:?}: only {moments} moments: nothing was tested");
    }
}

/// The work done for this many joiners: how often their futures were polled, and how many calls
/// were made.
async fn work(joiners: usize) -> (usize, usize) {
    let case = Case {
        merged: true,
        lost: false,
        doubtful: false,
    };
    let (tasks, calls) = (Tasks::new(), Arc::new(AtomicUsize::new(0)));
    let (single_flight, flights) = flights(case, &tasks, &calls);
    let polls = Arc::new(AtomicUsize::new(0));
    let mut asked = vec![tasks.spawn("test", flights.call(call("a", "leader").1))];
    for n in 0..joiners {
        let (polls, mut joined) = (Arc::clone(&polls), flights.call(call("a", &n.to_string()).1).boxed());
        let counted = poll_fn(move |context| {
            polls.fetch_add(1, Ordering::Relaxed);
            joined.as_mut().poll(context)
        });
        asked.push(tasks.spawn("test", counted));
    }
    yield_now().await;
    assert_eq!(single_flight.flight_table.len(), 1);
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
    (polls.load(Ordering::Relaxed), calls.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn ten_times_as_many_joiners_are_ten_times_the_work_and_one_call() {
    let (few, calls) = work(1_000).await;
    assert_eq!(calls, 1);
    // Once at the start, and once with the answer.
    assert_eq!(few, 2 * 1_000);
    assert_eq!(work(10_000).await, (10 * few, 1));
}
