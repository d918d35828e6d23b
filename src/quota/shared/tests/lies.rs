//! A store that says what the script never would.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::store::waiting;
use crate::quota::shared::{self, Protocol, SyncReply, Timing};
use crate::quota::{self, Limit};
use crate::store;

fn replica(now: Instant) -> Protocol {
    let minute = Duration::from_mins(1);
    let limit = Limit::try_new(NonZeroU32::new(100).unwrap(), minute).unwrap();
    let config = quota::Config::try_new(vec![limit], NonZeroU32::MIN, minute).unwrap();
    let store = store::Config::new(store::Address::parse("redis://h").unwrap(), minute);
    let sharing = shared::Config::new(store, Timing::new(minute), "p", "t", "a");
    Protocol::new("me".into(), &config, &sharing, now)
}

#[tokio::test(start_paused = true)]
async fn no_more_slots_are_taken_than_were_asked_for_whatever_the_store_grants() {
    let now = Instant::now();
    let mut state = replica(now);
    let hear = |state: &mut Protocol, reply: &str| {
        state.demand(&waiting("me", 3), now);
        state.step("n".into(), false, now).unwrap();
        let reply: SyncReply = serde_json::from_str(reply).unwrap();
        let _ = state.on_reply(&reply, now, now);
        std::iter::from_fn(|| state.take(now))
            .map(|slot| slot.id)
            .collect::<Vec<_>>()
    };
    hear(&mut state, r#"{"epoch":"e","stale":true}"#);
    let lie = r#"{"epoch":"e","granted":["a","b","c","d","e"],"foreign":18446744073709551615}"#;
    let mut names = hear(&mut state, lie);
    assert_eq!(names.len(), 3);
    names.extend(hear(&mut state, lie));
    assert_eq!(names.len(), 6);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 6, "each has a name of its own");
}

#[tokio::test(start_paused = true)]
async fn a_forecast_ends_whatever_the_store_says_of_others() {
    let now = Instant::now();
    let mut state = replica(now);
    let hear = |state: &mut Protocol, reply: &str| {
        state.step("n".into(), false, now).unwrap();
        let reply: SyncReply = serde_json::from_str(reply).unwrap();
        let _ = state.on_reply(&reply, now, now);
    };
    hear(&mut state, r#"{"epoch":"e","stale":true}"#);
    let others =
        vec![r#"["3a",-1,1e300,1e300,1,-1e300],["7",1e300,-1e300,1,0,1e300],["x",1,1,1,1,0],["",1,1,1,1,0]"#; 1000]
            .join(",");
    let classes = vec!["[1e300,1,1],[-1,1e300,1],[3,-1e300,1e300]"; 100].join(",");
    hear(
        &mut state,
        &format!(r#"{{"epoch":"e","others":[{others}],"classes":[{classes}],"positions":[1e300,-1e300]}}"#),
    );
    assert!(state.order.others.len() <= 128 && state.order.classes.len() <= 8);
    assert!(
        state
            .order
            .others
            .iter()
            .all(|flow| flow.waiting <= 1_000_000 && flow.weight >= 1)
    );
    let mut slots = std::collections::VecDeque::new();
    state.forecast(now, 1000, &mut slots);
    assert_eq!(slots.len(), 1000);
    assert!(slots.iter().is_sorted());
}
