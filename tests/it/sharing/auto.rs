//! Merging that is switched on by what comparisons find out, before upstreams that suit it and
//! upstreams that do not. In virtual time.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use defender_gateway::testing::caller::Name;
use defender_gateway::testing::scan::{Endpoint, MergeFinding, MergeRecord, Outcome, Request, SplitError};
use defender_gateway::testing::sim::{self, Shape};

use super::stack_fixture::{Layout, StackFixture, Tenant, rows};
use crate::support::redis::Redis;
use crate::support::{self, Setup, until};

/// Few enough a second that a crowd has to queue.
const LIMITS: [(u32, u64); 2] = [(10, 1), (1500, 3600)];

/// Each of them is asked for every other minute, by one caller after the other.
const REQUESTS: u32 = 20;
const ROUND: Duration = Duration::from_mins(2);

fn id(n: u32) -> String {
    format!("id{n}")
}

/// The ids of the n-th request: three of four are for one.
fn ids(n: u32) -> Vec<String> {
    let count = if n.is_multiple_of(4) { 3 } else { 1 };
    (0..count).map(|more| id(10 * n + more)).collect()
}

fn alone(ids: &[String], tenant: Tenant) -> Bytes {
    let request = Request::plain(Endpoint::HISTORY, ids.iter().map(String::as_str)).unwrap();
    rows(&request, Layout::Compact, tenant).into()
}

/// How requests were answered that came together.
#[derive(Debug, Default)]
struct Crowd {
    merged: usize,
    forwarded: usize,
}

impl StackFixture {
    /// Ordinary traffic for so long. Everybody gets what the upstream answers alone.
    async fn pass(&self, tenant: Tenant, time: Duration) {
        let (begun, pause) = (Instant::now(), ROUND / REQUESTS);
        for n in 0.. {
            let at = begun + pause * n;
            if at >= begun + time {
                return;
            }
            sleep_until(at).await;
            self.check(&ids(n % REQUESTS), tenant).await;
        }
    }

    async fn check(&self, ids: &[String], tenant: Tenant) -> Outcome {
        let served = self.ask("tool", ids).await.unwrap();
        if tenant != Tenant::Changing {
            assert_eq!(served.answer.body, alone(ids, tenant), "{ids:?}, {:?}", served.status);
        }
        served.outcome
    }

    /// Requests at once for so many ids that nobody has asked for.
    async fn crowd(&self, tenant: Tenant, first: u32, count: u32) -> Crowd {
        let asked = (0..count).map(|n| async move { self.check(&[id(first + n)], tenant).await });
        let mut crowd = Crowd::default();
        for outcome in join_all(asked).await {
            match outcome {
                Outcome::Merged => crowd.merged += 1,
                _ => crowd.forwarded += 1,
            }
        }
        crowd
    }

    fn finding(&self) -> MergeFinding {
        self.upstream_profile.merge_evidence().findings()[0]
    }

    /// Calls with the largest `$top`, and the most ids in one. None of them is made for a caller.
    fn comparisons(&self) -> (usize, usize) {
        let arrivals = self.arrivals.lock().unwrap();
        let calls = arrivals.iter().filter(|arrival| arrival.all);
        assert!(calls.clone().all(|call| call.caller == Name::of_gateway()));
        (
            calls.clone().count(),
            calls.map(|arrival| arrival.ids.len()).max().unwrap_or(0),
        )
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_answers_together_as_alone_is_merged_within_ten_minutes() {
    for tenant in [Tenant::Consistent, Tenant::Changing] {
        let stack_fixture = StackFixture::proving(tenant, &LIMITS);
        let before = stack_fixture.crowd(tenant, 1_000, 15).await;
        assert_eq!(before.merged, 0, "nothing is known");
        stack_fixture.pass(tenant, Duration::from_mins(2)).await;
        assert_eq!(
            stack_fixture.comparisons().0,
            0,
            "nothing is compared in the first minutes"
        );
        stack_fixture.pass(tenant, Duration::from_mins(8)).await;
        let (finding, (calls, widest)) = (stack_fixture.finding(), stack_fixture.comparisons());
        println!("{tenant:?}: {calls} calls for up to {widest} ids: {finding}");
        assert!(finding.record.is_proven() && finding.state() == "merging", "{finding}");
        assert_eq!(calls, finding.record.calls as usize);
        assert!(calls <= 4 && widest >= 20, "{calls} calls for up to {widest} ids");
        let after = stack_fixture.crowd(tenant, 2_000, 80).await;
        assert!(after.merged > 60, "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_answers_otherwise_together_is_not_merged_and_nobody_gets_wrong_rows() {
    for (tenant, reason) in [
        (Tenant::Caps(15), SplitError::Different),
        (Tenant::Reorders, SplitError::Different),
        (Tenant::Deduplicates, SplitError::Different),
        (Tenant::ChangesCasing, SplitError::Different),
        (Tenant::Refuses, SplitError::Refused),
    ] {
        let stack_fixture = StackFixture::proving(tenant, &LIMITS);
        stack_fixture.pass(tenant, Duration::from_mins(10)).await;
        let finding = stack_fixture.finding();
        println!("{tenant:?}: {finding}");
        assert_eq!(finding.record.contradiction, Some(reason), "{tenant:?}");
        assert_eq!(finding.state(), "not-merging", "{tenant:?}");
        let crowd = stack_fixture.crowd(tenant, 2_000, 15).await;
        assert_eq!(crowd.merged, 0, "{tenant:?}");
        // It is looked at again, ever later, and never merged.
        for _ in 0..5 {
            sleep(Duration::from_mins(50)).await;
            stack_fixture.pass(tenant, Duration::from_mins(10)).await;
        }
        let (record, calls) = (stack_fixture.finding().record, stack_fixture.comparisons().0);
        println!("{tenant:?}, hours later: {}", stack_fixture.finding());
        assert!(
            record.contradictions > 1 && !record.is_proven(),
            "{tenant:?}: {record:?}"
        );
        assert!(calls <= MergeRecord::MOST_CALLS as usize, "{tenant:?}: {calls} calls");
    }
}

/// What was compared fits, and what is merged later does not.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_caps_more_rows_than_were_compared_gives_nobody_wrong_rows() {
    let tenant = Tenant::Caps(70);
    let stack_fixture = StackFixture::proving(tenant, &LIMITS);
    stack_fixture.pass(tenant, Duration::from_mins(10)).await;
    assert!(stack_fixture.finding().record.is_proven());
    for round in 0..10 {
        let crowd = stack_fixture.crowd(tenant, 2_000 + 100 * round, 80).await;
        assert_eq!(crowd.merged + crowd.forwarded, 80);
        stack_fixture.pass(tenant, Duration::from_mins(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_compared_without_surplus() {
    // A request every six seconds is more than half of what there is.
    let stack_fixture = StackFixture::proving(Tenant::Consistent, &[(12, 60), (1500, 3600)]);
    stack_fixture.pass(Tenant::Consistent, Duration::from_mins(20)).await;
    assert_eq!(stack_fixture.comparisons().0, 0);
    assert_eq!(stack_fixture.finding().record, MergeRecord::default());
    assert_eq!(stack_fixture.finding().state(), "comparing");
}

/// What an earlier process has found out, as it is stored.
fn found_out() -> String {
    let record = json!({
        "revision": 42, "calls": 2, "confirmed_calls": 2, "answers": 20, "pairs": 40, "mixed_pairs": 20, "ids": 30, "rows": 60,
    });
    let registration = format!("{} {}", sim::TENANT_ID, sim::CLIENT_ID);
    json!({"registration": registration, "endpoints": {"history_by_definition/latest": record}}).to_string()
}

#[tokio::test]
async fn what_was_found_out_outlives_the_process_in_a_file_and_reload_may_switch_it_off() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("calls");
    let memory = folder.path().join("calls.merge");
    fs::write(&memory, found_out()).unwrap();
    let running = Setup::new()
        .set("quota.state_file", state.to_str().unwrap())
        .start()
        .await;
    let merge = running.status().await["merge"].clone();
    assert_eq!(
        (&merge["mode"], &merge["enabled"]),
        (&json!("auto"), &json!(true)),
        "{merge}"
    );
    let evidence = &merge["evidence"][0];
    assert_eq!(evidence["state"], "merging", "{merge}");
    assert_eq!(
        (&evidence["answers"], &evidence["calls"]),
        (&json!(20), &json!(2)),
        "{merge}"
    );
    for (enabled, mode) in [("false", "off"), ("true", "on")] {
        running.reload(&[("merge.enabled", enabled)]).await.unwrap();
        let merge = running.status().await["merge"].clone();
        assert_eq!(
            (&merge["mode"], &merge["enabled"]),
            (&json!(mode), &json!(mode == "on")),
            "{merge}"
        );
        assert!(merge["evidence"].is_null(), "{merge}");
    }
    running.finish().await;
    // Another registration's says nothing here, nor does what cannot be read.
    for other in [found_out().replace(sim::CLIENT_ID, "another"), "nonsense".into()] {
        fs::write(&memory, other).unwrap();
        let running = Setup::new()
            .set("quota.state_file", state.to_str().unwrap())
            .start()
            .await;
        let merge = running.status().await["merge"].clone();
        assert_eq!(
            (&merge["enabled"], &merge["evidence"]),
            (&json!(false), &json!([])),
            "{merge}"
        );
        running.finish().await;
    }
}

#[tokio::test]
async fn what_one_replica_has_found_out_the_others_learn_from_the_store() {
    let store = Redis::start().await;
    let folder = tempfile::tempdir().unwrap();
    let memory = folder.path().join("calls.merge");
    fs::write(&memory, found_out()).unwrap();
    let state = folder.path().join("calls");
    let one = Setup::new()
        .set("store.url", &store.url())
        .set("quota.state_file", state.to_str().unwrap());
    let one = one.start().await;
    let (records, lease) = (key("records"), key("lease"));
    until("the store to have it", async || {
        let stored: Option<String> = store.ask(&["GET", &records]).await.ok()?;
        stored.filter(|stored| stored.contains("\"answers\":20")).map(drop)
    })
    .await;
    let leased: i64 = store.ask(&["PTTL", &lease]).await.unwrap();
    assert!(leased > 0, "somebody may compare: {leased}");
    let remembered = folder.path().join("other.merge");
    let state = folder.path().join("other");
    let other = Setup::new().set("store.url", &store.url());
    let other = other.set("quota.state_file", state.to_str().unwrap()).start().await;
    let status = other.until_status("what was found out", |status| status["merge"]["enabled"] == true);
    assert_eq!(status.await["merge"]["evidence"][0]["state"], "merging");
    until("the file to have it", async || {
        let text = fs::read_to_string(&remembered).ok()?;
        text.contains("\"answers\":20").then_some(())
    })
    .await;
    one.finish().await;
    other.finish().await;
}

/// The name of a key in the store.
fn key(what: &str) -> String {
    format!(
        "{{defender-gateway:{}:{}}}:merge:{what}",
        sim::TENANT_ID,
        sim::CLIENT_ID
    )
}

#[tokio::test]
async fn whoever_may_compare_may_go_on_after_the_configuration_has_changed() {
    let store = Redis::start().await;
    let running = replica(&store).start().await;
    let lease = key("lease");
    let is_held = async || {
        let left: i64 = store.ask(&["PTTL", &lease]).await.unwrap();
        (left > 150_000).then_some(())
    };
    until("the lease", is_held).await;
    running.reload(&[("cache.ttl", "\"40s\"")]).await.unwrap();
    // Whoever does not know that it has it would wait for its end.
    let _: i64 = store.ask(&["PERSIST", &lease]).await.unwrap();
    until("the lease to be renewed", is_held).await;
    running.finish().await;
}

/// A replica that looks at the store more often than once a minute.
fn replica(store: &Redis) -> Setup {
    Setup::new()
        .set("store.url", &store.url())
        .set("quota.limits", "20/1s")
        .set("quota.burst", "1")
        .environment(|environment| environment.merge_interval = Duration::from_millis(100))
}

#[tokio::test]
async fn what_contradicts_merging_at_one_replica_ends_it_at_the_others() {
    let store = Redis::start().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("calls.merge"), found_out()).unwrap();
    let state = folder.path().join("calls");
    // Unlike what was found out earlier, it refuses calls for many ids now.
    let one = replica(&store)
        .set("quota.state_file", state.to_str().unwrap())
        .upstream_limits(Shape::SlidingLog, &["1000/1s"])
        .simulator(|simulator| simulator.history.max_ids = Some(3));
    let one = one.start().await;
    let other = replica(&store).start_at(&one.simulator.config_toml()).await;
    let merges = |status: &Value| status["merge"]["enabled"] == true;
    other.until_status("what was found out", merges).await;
    for round in 0.. {
        let ids = (0..12).map(|n| support::id(12 * round + n));
        let asked = ids.map(async |id| one.caller.ask(&[id]).await.status);
        assert!(
            join_all(asked).await.iter().all(|status| *status == 200),
            "nobody sees it"
        );
        if !merges(&one.status().await) {
            break;
        }
        assert!(round < 10, "it should be contradicted: {}", one.status().await["merge"]);
    }
    let status = other.until_status("the contradiction", |status| !merges(status));
    let evidence = status.await["merge"]["evidence"][0].clone();
    assert_eq!(
        (&evidence["state"], &evidence["contradictions"]),
        (&json!("not-merging"), &json!(1)),
        "{evidence}"
    );
    other.leave().await;
    one.finish().await;
}
