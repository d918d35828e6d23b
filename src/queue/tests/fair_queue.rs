//! Waiting, refusing, leaving.

use super::*;
use crate::queue::Reason;

#[tokio::test(start_paused = true)]
async fn a_free_slot_is_given_at_once_even_to_who_will_not_wait() {
    let tasks = Tasks::new();
    let (queue, _) = queue(SECOND, &tasks);
    let hasty = attempt("a", 3, Duration::ZERO);
    // Its deadline is its arrival, and some time has passed since.
    tokio::time::advance(Duration::from_millis(1)).await;
    let start = Instant::now();
    queue.turn(&hasty).await.unwrap().used();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let refused = queue.turn(&attempt("a", 3, Duration::ZERO)).await.unwrap_err();
    assert_eq!((refused.reason, refused.retry_after_s()), (Reason::Late, 1));
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_served_in_time_is_told_at_once_when_to_come_back() {
    let tasks = Tasks::new();
    let (queue, _) = queue(10 * SECOND, &tasks);
    let start = Instant::now();
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let waiting = tasks.spawn("caller", {
        let (queue, attempt) = (queue.clone(), attempt("a", 3, 30 * SECOND));
        async move { queue.turn(&attempt).await.unwrap().used() }
    });
    tokio::task::yield_now().await;
    let refused = queue.turn(&attempt("a", 3, 5 * SECOND)).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
    // Its turn would come at 10, and then the other one's at 20; who obeys waits half of what it
    // may.
    assert_eq!(refused.wait.unwrap().needed_s(), 10);
    assert_eq!(refused.retry_after, 18 * SECOND);
    tokio::time::sleep(refused.retry_after).await;
    queue.turn(&attempt("a", 3, 5 * SECOND)).await.unwrap().used();
    waiting.await.unwrap();
}

/// The queue is full, and so is that of another replica.
#[tokio::test(start_paused = true)]
async fn who_goes_before_somebody_here_has_room_however_many_wait_elsewhere() {
    for elsewhere in [0, 5] {
        let tasks = Tasks::new();
        let (queue, clockwork) = queue(SECOND, &tasks);
        queue.reconfigure(Config {
            max_requests: 3,
            max_requests_per_caller: 3,
            longest_wait: Duration::from_hours(1),
            ..Config::default()
        });
        clockwork.share_with(vec![FlowDemand {
            urgency: Urgency::new(0).unwrap(),
            caller: Name::new("elsewhere"),
            // Before the one that comes here.
            weight: 100,
            waiting: elsewhere,
            deadlines: Vec::new(),
            returning: 0,
            kept: 0,
            dues: [].into(),
            asks_again: false,
            position: None,
        }]);
        queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
        let waiting: Vec<_> = (0..3)
            .map(|_| queue.enter(&attempt("patient", 7, 600 * SECOND)).unwrap())
            .collect();
        let urgent = queue.enter(&attempt("urgent", 0, 60 * SECOND));
        urgent.unwrap_or_else(|refused| panic!("{elsewhere}: {refused:?}"));
        let last = waiting.into_iter().next_back().unwrap();
        assert_eq!(last.turn().await.unwrap_err().reason, Reason::Displaced, "{elsewhere}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_gives_its_place_up_at_once() {
    let tasks = Tasks::new();
    let (queue, _) = queue(10 * SECOND, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let leaver = attempt("a", 3, 60 * SECOND);
    assert!(tokio::time::timeout(SECOND, queue.turn(&leaver)).await.is_err());
    assert_eq!(queue.snapshot().waiting, 0);
    let start = Instant::now();
    queue.turn(&attempt("a", 3, 60 * SECOND)).await.unwrap().used();
    assert_eq!(start.elapsed(), 9 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_slot_handed_to_a_caller_that_has_just_left_passes_on() {
    let tasks = Tasks::new();
    let (queue, _) = queue(10 * SECOND, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let (first, second) = (attempt("a", 3, 60 * SECOND), attempt("a", 3, 60 * SECOND));
    let mut leaving = Box::pin(queue.turn(&first));
    let mut staying = Box::pin(queue.turn(&second));
    assert!(futures_util::poll!(&mut leaving).is_pending());
    assert!(futures_util::poll!(&mut staying).is_pending());
    // The slot comes and is put into the first one's hand, which is never looked at.
    tokio::time::advance(10 * SECOND).await;
    tokio::task::yield_now().await;
    drop(leaving);
    let start = Instant::now();
    staying.await.unwrap().used();
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_breaks_promises_is_told_at_once_and_to_as_few_as_possible() {
    let tasks = Tasks::new();
    let (queue, clockwork) = queue(SECOND, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let start = Instant::now();
    let wait = |wait| {
        let (queue, attempt) = (queue.clone(), attempt("a", 3, wait));
        tasks.spawn("caller", async move {
            queue
                .turn(&attempt)
                .await
                .map(Slot::used)
                .map_err(|refused| (refused.reason, start.elapsed()))
        })
    };
    let (short, long) = (wait(10 * SECOND), wait(100 * SECOND));
    tokio::task::yield_now().await;
    clockwork.pause_until(start + 50 * SECOND);
    assert_eq!(short.await.unwrap(), Err((Reason::PausedPastDeadline, Duration::ZERO)));
    assert_eq!(long.await.unwrap(), Ok(()));
    assert_eq!(start.elapsed(), 50 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_all_and_per_caller() {
    let tasks = Tasks::new();
    let config = Config {
        max_requests: 3,
        max_requests_per_caller: 2,
        longest_wait: Duration::from_hours(10),
        ..Config::default()
    };
    let queue = Queue::start(config, Clockwork::new(SECOND), &tasks, Metrics::default());
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let reason = async |name| queue.turn(&attempt(name, 3, 60 * SECOND)).await.unwrap_err().reason;
    let wait = |name| {
        let (queue, attempt) = (queue.clone(), attempt(name, 3, 60 * SECOND));
        tasks.spawn("caller", async move {
            let turn = queue.turn(&attempt).await;
            turn.map(Slot::used).map_err(|refused| refused.reason)
        })
    };
    let mut waiting = vec![wait("a"), wait("a")];
    tokio::task::yield_now().await;
    assert_eq!(reason("a").await, Reason::CallerFull);
    waiting.push(wait("b"));
    tokio::task::yield_now().await;
    // Its first turn comes before the second of "a", which has to make room.
    let first = wait("c");
    tokio::task::yield_now().await;
    assert_eq!(waiting.remove(1).await.unwrap().unwrap_err(), Reason::Displaced);
    waiting.push(first);
    assert_eq!(reason("d").await, Reason::Full);
    for done in waiting {
        done.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_greedy_caller_cannot_fill_the_queue_against_others() {
    let tasks = Tasks::new();
    let (queue, _) = queue(SECOND, &tasks);
    queue.turn(&attempt("modest", 3, SECOND)).await.unwrap().used();
    let greedy = |wait| {
        let (queue, attempt) = (queue.clone(), attempt("greedy", 3, wait));
        tasks.spawn("caller", async move { queue.turn(&attempt).await.map(Slot::used) })
    };
    let flood: Vec<_> = (0..100).map(|_| greedy(30 * SECOND)).collect();
    tokio::task::yield_now().await;
    assert_eq!(queue.snapshot().waiting, 30, "every slot that nobody else asks for");
    let start = Instant::now();
    queue.turn(&attempt("modest", 3, 30 * SECOND)).await.unwrap().used();
    assert!(start.elapsed() <= 2 * SECOND, "{:?}", start.elapsed());
    let turns: Vec<_> = futures_util::future::join_all(flood).await;
    let refused = turns.into_iter().filter_map(|turn| turn.unwrap().err());
    let displaced: Vec<_> = refused.filter(|refused| refused.reason == Reason::Displaced).collect();
    assert_eq!(displaced.len(), 1, "the last one makes room: {displaced:?}");
    assert!(displaced[0].wait.is_some() && displaced[0].retry_after >= SECOND);
}

#[tokio::test(start_paused = true)]
async fn callers_that_are_gone_are_forgotten_although_nobody_comes() {
    let tasks = Tasks::new();
    let (queue, _) = queue(SECOND, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    queue.turn(&attempt("a", 3, Duration::ZERO)).await.unwrap_err();
    assert_eq!(queue.0.lock().order.returning(), 1);
    tokio::time::sleep(Duration::from_mins(15)).await;
    assert_eq!(queue.0.lock().order.returning(), 0);
    assert!(queue.0.lock().expectations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn whose_slot_moves_past_the_end_of_the_gateway_is_told_then() {
    let tasks = Tasks::new();
    let (queue, clockwork) = queue(10 * SECOND, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let start = Instant::now();
    let [first, second, third] = [("a", 600), ("b", 600), ("c", 600)].map(|(name, wait)| {
        let (queue, attempt) = (queue.clone(), attempt(name, 3, wait * SECOND));
        tasks.spawn("caller", async move { queue.turn(&attempt).await.map(Slot::used) })
    });
    tokio::task::yield_now().await;
    queue.close(start + 25 * SECOND);
    let told = third.await.unwrap().unwrap_err();
    assert_eq!((told.reason, start.elapsed()), (Reason::ShuttingDown, Duration::ZERO));
    first.await.unwrap().unwrap();
    assert_eq!(start.elapsed(), 10 * SECOND);
    clockwork.pause_until(start + 60 * SECOND);
    let told = second.await.unwrap().unwrap_err();
    assert_eq!((told.reason, start.elapsed()), (Reason::ShuttingDown, 10 * SECOND));
}

/// As when the store that says so is lost.
#[tokio::test(start_paused = true)]
async fn who_waits_for_slots_that_do_not_come_is_told_before_the_end_of_the_gateway() {
    let tasks = Tasks::new();
    let (queue, clockwork) = queue(SECOND, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let start = Instant::now();
    let waiting = ["a", "b"].map(|name| {
        let (queue, attempt) = (queue.clone(), attempt(name, 3, 600 * SECOND));
        tasks.spawn("caller", async move { queue.turn(&attempt).await.map(Slot::used) })
    });
    tokio::task::yield_now().await;
    clockwork.fail_until(start + 3600 * SECOND);
    queue.close(start + 25 * SECOND);
    for waiting in waiting {
        let told = waiting.await.unwrap().unwrap_err();
        assert_eq!((told.reason, start.elapsed()), (Reason::ShuttingDown, 25 * SECOND));
    }
    let late = queue.turn(&attempt("c", 3, SECOND)).await.unwrap_err();
    assert_eq!((late.reason, start.elapsed()), (Reason::ShuttingDown, 25 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_last_of_a_full_queue_is_the_least_urgent() {
    let tasks = Tasks::new();
    let config = Config {
        max_requests: 4,
        max_requests_per_caller: 4,
        longest_wait: Duration::from_hours(10),
        ..Config::default()
    };
    let queue = Queue::start(config, Clockwork::new(SECOND), &tasks, Metrics::default());
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    // The first of a class that seldom asks is served soon.
    let [first, last, urgent, second, third] =
        [("a", 7), ("a", 7), ("a", 0), ("b", 0), ("c", 0)].map(|(name, urgency)| {
            let (queue, attempt) = (queue.clone(), attempt(name, urgency, 60 * SECOND));
            tasks.spawn("caller", async move { queue.turn(&attempt).await.map(Slot::used) })
        });
    assert_eq!(last.await.unwrap().unwrap_err().reason, Reason::Displaced);
    for served in [first, urgent, second, third] {
        served.await.unwrap().unwrap();
    }
}

/// The slot that was forecast never comes, and nobody looks after the queue.
#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_its_time_is_up_whatever_became_of_its_slot() {
    let config = Config {
        max_requests: 10,
        max_requests_per_caller: 10,
        longest_wait: Duration::from_hours(10),
        ..Config::default()
    };
    let queue = Queue::new(config, Clockwork::new(SECOND), Metrics::default(), 0);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let start = Instant::now();
    let waits = attempt("a", 3, 5 * SECOND);
    let told = tokio::time::timeout(60 * SECOND, queue.turn(&waits)).await;
    assert_eq!(told.unwrap().unwrap_err().reason, Reason::PausedPastDeadline);
    assert_eq!(start.elapsed(), 6 * SECOND, "a second late a slot would still be used");
    assert_eq!(queue.snapshot().waiting, 0);
}

/// A long queue is not looked at for each request of a flood, but soon after.
#[tokio::test(start_paused = true)]
async fn whom_a_flood_displaces_is_told_soon() {
    let tasks = Tasks::new();
    let (queue, _) = queue(60 * SECOND, &tasks);
    queue.turn(&attempt("a", 3, SECOND)).await.unwrap().used();
    let start = Instant::now();
    let wait = |name, urgency, slots: u32| {
        let (queue, attempt) = (queue.clone(), attempt(name, urgency, 60 * SECOND * slots));
        tasks.spawn("caller", async move {
            let turn = queue.turn(&attempt).await;
            turn.map(Slot::used)
                .map_err(|refused| (refused.reason, start.elapsed()))
        })
    };
    let just_in_time: Vec<_> = (1..=300).map(|slots| wait("patient", 7, slots)).collect();
    tokio::task::yield_now().await;
    let flood: Vec<_> = (0..8).map(|_| wait("urgent", 0, 300)).collect();
    tokio::time::sleep(SECOND).await;
    let mut told = Vec::new();
    for waiting in just_in_time {
        if waiting.is_finished() {
            told.push(waiting.await.unwrap().unwrap_err());
        } else {
            waiting.abort();
        }
    }
    let soon = Duration::from_millis(50);
    assert_eq!(told.len(), flood.len(), "one for each");
    assert!(
        told.iter()
            .all(|(reason, at)| *reason == Reason::Displaced && *at <= soon)
    );
    assert!(told.iter().any(|(_, at)| *at == soon), "{told:?}");
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}
