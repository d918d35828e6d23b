//! Whose fault bad answers are: requests that no host can answer eject nobody, and hosts that
//! answer nothing are found out.

use std::time::Duration;

use super::{Behaviour, Fixture, ROUND, WAIT, pass};

/// The kinds of bad answers: no answers of Defender's, statuses that say that there is none, and
/// lost connections.
const KINDS: [Behaviour; 8] = [
    Behaviour::Page(200),
    Behaviour::Page(403),
    Behaviour::Page(404),
    Behaviour::Page(500),
    Behaviour::Page(501),
    Behaviour::Page(503),
    Behaviour::Redirecting,
    Behaviour::Losing(1),
];

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Three measured hosts that have answered, of which `eu` is the nearest and `uk` the farthest.
async fn three() -> Fixture {
    let fixture = Fixture::new([
        ("eu", Behaviour::Up(10)),
        ("us", Behaviour::Up(80)),
        ("uk", Behaviour::Up(150)),
    ]);
    pass(ROUND).await;
    for _ in 0..10 {
        assert_eq!(fixture.status(&fixture.fresh()).await, Some(200));
    }
    fixture.network.called();
    fixture
}

#[tokio::test(start_paused = true)]
async fn a_third_host_that_works_is_found_behind_two_that_do_not() {
    // A 501 says that asking again does not help, so no other host is asked at once.
    for bad in KINDS.into_iter().filter(|bad| *bad != Behaviour::Page(501)) {
        // The same request again and again, and another one each time; often, and seldom.
        for (is_same, every) in [(true, 0), (false, 0), (true, 5), (false, 5), (true, 30), (false, 30)] {
            let fixture = three().await;
            for host in ["eu", "us"] {
                fixture.network.set(host, bad);
            }
            let mut failed = 0;
            let mut latest = None;
            for _ in 0..20 {
                let id = if is_same { "a".to_owned() } else { fixture.fresh() };
                latest = fixture.status(&id).await.filter(|status| *status == 200);
                // A page with 200 is no answer, and is not passed on.
                failed += u32::from(latest.is_none());
                pass(secs(every)).await;
            }
            println!("{bad:?}, same {is_same}, every {every} s: {failed} of 20 failed");
            assert!(failed <= 6, "{bad:?}, same {is_same}, every {every} s: {failed}");
            assert_eq!(latest, Some(200), "{bad:?}, same {is_same}, every {every} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_host_can_answer_ejects_none_while_others_are_answered() {
    for bad in KINDS {
        for is_same in [true, false] {
            let fixture = three().await;
            // One such request every half minute, among some that are answered.
            for round in 0..30 {
                let hopeless = if is_same { "x".to_owned() } else { format!("x-{round}") };
                fixture.network.cannot_answer(&hopeless, bad, Duration::ZERO);
                let _ = fixture.ask_for(&hopeless, WAIT).await;
                assert!(fixture.network.called().len() <= 2, "{bad:?}");
                for _ in 0..2 {
                    pass(secs(10)).await;
                    assert_eq!(fixture.status(&fixture.fresh()).await, Some(200));
                    assert_eq!(
                        fixture.network.called(),
                        ["eu"],
                        "{bad:?}: the others stay at the nearest"
                    );
                }
                pass(secs(10)).await;
                for host in ["eu", "us", "uk"] {
                    assert!(fixture.healthy(host), "{bad:?}, {host}, round {round}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn several_such_requests_at_once_count_as_one() {
    for bad in KINDS {
        let fixture = three().await;
        for _ in 0..10 {
            let ids: Vec<_> = (0..5).map(|_| fixture.fresh()).collect();
            for id in &ids {
                fixture.network.cannot_answer(id, bad, Duration::ZERO);
            }
            futures_util::future::join_all(ids.iter().map(|id| fixture.ask_for(id, WAIT))).await;
            pass(secs(5)).await;
            assert_eq!(fixture.status(&fixture.fresh()).await, Some(200));
            for host in ["eu", "us", "uk"] {
                assert!(fixture.healthy(host), "{bad:?}, {host}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_that_answer_nothing_are_all_ejected_and_come_back() {
    for bad in KINDS {
        let fixture = three().await;
        for host in ["eu", "us", "uk"] {
            fixture.network.set(host, bad);
        }
        for _ in 0..20 {
            let _ = fixture.ask_for(&fixture.fresh(), WAIT).await;
            pass(secs(1)).await;
        }
        for host in ["eu", "us", "uk"] {
            assert!(!fixture.healthy(host), "{bad:?}, {host}");
        }
        for (host, ms) in [("eu", 10), ("us", 80), ("uk", 150)] {
            fixture.network.set(host, Behaviour::Up(ms));
        }
        pass(secs(61)).await;
        assert_eq!(fixture.status(&fixture.fresh()).await, Some(200), "{bad:?}");
        assert_eq!(fixture.selected(), "eu", "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_host_is_well_while_it_answers_others_and_not_when_it_answers_nobody() {
    for bad in KINDS {
        let fixture = Fixture::new([("eu", Behaviour::Up(10))]);
        pass(ROUND).await;
        fixture.network.cannot_answer("x", bad, Duration::ZERO);
        for _ in 0..20 {
            // The one that fails is asked for more often than any other.
            for _ in 0..3 {
                let _ = fixture.ask_for("x", WAIT).await;
                pass(secs(10)).await;
            }
            assert!(fixture.healthy("eu"), "{bad:?}");
            assert_eq!(fixture.status(&fixture.fresh()).await, Some(200));
        }
        fixture.network.set("eu", bad);
        for _ in 0..3 {
            let _ = fixture.ask_for(&fixture.fresh(), WAIT).await;
        }
        assert!(!fixture.healthy("eu"), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_every_third_time_is_ejected_for_one_that_does_not() {
    let fixture = three().await;
    for _ in 0..5 {
        fixture.network.set("eu", Behaviour::Busy(10));
        assert_eq!(fixture.status(&fixture.fresh()).await, Some(200));
        fixture.network.set("eu", Behaviour::Up(10));
        for _ in 0..2 {
            pass(secs(3)).await;
            assert_eq!(fixture.status(&fixture.fresh()).await, Some(200));
        }
    }
    assert!(!fixture.healthy("eu"));
}

/// Slots are scarce: the next one is free after this time.
const NEXT_SLOT: Duration = Duration::from_millis(2400);

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_in_part_is_ejected_although_it_answers_others_before_the_next_attempt() {
    let kinds = [Behaviour::Losing(10), Behaviour::Busy(10), Behaviour::Redirecting];
    // Every so many calls fail, and their requests have their next attempts after so many seconds.
    let cases = [(3, 3), (4, 3), (3, 15), (4, 15)];
    for (bad, (every, wait)) in kinds.into_iter().flat_map(|bad| cases.map(|case| (bad, case))) {
        let fixture = three().await;
        // The answers before are forgotten.
        pass(secs(121)).await;
        let mut failed = 0;
        while fixture.healthy("eu") {
            let id = fixture.fresh();
            fixture.network.set("eu", bad);
            let _ = fixture.attempt(&id).await;
            fixture.network.set("eu", Behaviour::Up(10));
            pass(NEXT_SLOT).await;
            fixture.call().await.unwrap();
            pass(secs(wait).saturating_sub(NEXT_SLOT)).await;
            let answer = fixture.attempt(&id).await.unwrap();
            assert!(answer.status.is_success(), "{bad:?}");
            assert_eq!(fixture.network.called(), ["eu", "eu", "us"], "{bad:?}");
            for _ in 2..every {
                pass(NEXT_SLOT).await;
                fixture.call().await.unwrap();
            }
            fixture.network.called();
            failed += 1;
            assert!(failed <= 3, "{bad:?}, every {every}, after {wait} s");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_no_host_could_answer_eject_none_when_it_is_over() {
    for bad in KINDS {
        let fixture = three().await;
        let ids: Vec<_> = (0..5).map(|_| fixture.fresh()).collect();
        for id in &ids {
            fixture.network.cannot_answer(id, bad, Duration::ZERO);
            let _ = fixture.attempt(id).await;
            pass(NEXT_SLOT).await;
            fixture.call().await.unwrap();
            let _ = fixture.attempt(id).await;
            pass(NEXT_SLOT).await;
            assert_eq!(fixture.network.called(), ["eu", "eu", "us"], "{bad:?}");
        }
        pass(secs(15)).await;
        for id in &ids {
            fixture.network.cannot_answer(id, Behaviour::Up(1), Duration::ZERO);
            assert_eq!(fixture.status(id).await, Some(200), "{bad:?}");
            for host in ["eu", "us", "uk"] {
                assert!(fixture.healthy(host), "{bad:?}, {host}");
            }
            pass(NEXT_SLOT).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_no_host_can_answer_ejects_none_when_its_bad_answers_come_late() {
    // A 501 is not asked for again.
    for bad in KINDS.into_iter().filter(|bad| *bad != Behaviour::Page(501)) {
        let fixture = three().await;
        for round in 0..12 {
            let hopeless = format!("x-{round}");
            fixture
                .network
                .cannot_answer(&hopeless, bad, Duration::from_millis(2500));
            let others = async {
                // The nearest is preferred again, and the other host has not answered yet.
                pass(Duration::from_millis(4800)).await;
                fixture.status(&fixture.fresh()).await
            };
            let (_, answered) = tokio::join!(fixture.ask_for(&hopeless, WAIT), others);
            assert_eq!(answered, Some(200));
            assert_eq!(fixture.network.counted(["eu", "us"]), [2, 1], "{bad:?}, round {round}");
            pass(secs(10)).await;
            for host in ["eu", "us", "uk"] {
                assert!(fixture.healthy(host), "{bad:?}, {host}, round {round}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_convicts_no_other_host_and_excuses_none() {
    let fixture = Fixture::new([("us", Behaviour::Up(10)), ("eu", Behaviour::Up(80))]);
    pass(ROUND).await;
    assert_eq!(fixture.status("a").await, Some(200));
    fixture.network.set("eu", Behaviour::Rejecting);
    // Now and then `us` sends a page, and the further call meets the host that rejects the token.
    for _ in 0..4 {
        fixture.network.set("us", Behaviour::Page(200));
        assert_eq!(fixture.status(&fixture.fresh()).await, Some(401));
        fixture.network.set("us", Behaviour::Up(10));
        pass(secs(3)).await;
        assert!(fixture.healthy("us"));
        assert_eq!(fixture.status(&fixture.fresh()).await, Some(200), "it is asked again");
    }
    // A host that answers nothing is found out although it rejects tokens in between.
    let fixture = Fixture::new([("eu", Behaviour::Up(10))]);
    pass(ROUND).await;
    for _ in 0..3 {
        fixture.network.set("eu", Behaviour::Page(503));
        assert_eq!(fixture.status(&fixture.fresh()).await, Some(503));
        fixture.network.set("eu", Behaviour::Rejecting);
        assert_eq!(fixture.status(&fixture.fresh()).await, Some(401));
    }
    assert!(!fixture.healthy("eu"));
}

#[tokio::test(start_paused = true)]
async fn a_throttled_call_and_a_rejected_token_bring_no_host_back_that_answers_nothing() {
    for alive in [Behaviour::Page(429), Behaviour::Rejecting] {
        let fixture = Fixture::new([("eu", Behaviour::Busy(10))]);
        pass(ROUND).await;
        for _ in 0..3 {
            assert_eq!(fixture.status(&fixture.fresh()).await, Some(503));
        }
        assert!(!fixture.healthy("eu"));
        fixture.network.set("eu", alive);
        // While it is ejected, and when it may be tried again.
        for _ in 0..2 {
            let _ = fixture.ask_for(&fixture.fresh(), WAIT).await;
            assert!(!fixture.healthy("eu"));
            pass(secs(61)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_could_not_be_reached_is_back_with_any_response() {
    let fixture = Fixture::unwatched([("eu", Behaviour::Refused)]);
    assert!(fixture.call().await.is_err());
    assert!(!fixture.healthy("eu"));
    fixture.network.set("eu", Behaviour::Rejecting);
    fixture.call().await.unwrap();
    assert!(fixture.healthy("eu"));
}
