//! When a comparison call begins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::fixture::{MERGE, pass, predicted_wait, request};
use crate::scan::{Merging, Rows, UpstreamProfile};
use crate::single_flight::batcher::Batcher;
use crate::single_flight::{BatchConfig, Metrics, PredictedWait};

#[tokio::test(start_paused = true)]
async fn whether_quota_is_left_is_asked_only_when_there_may_be_something_to_compare() {
    let merge = BatchConfig {
        when: Merging::Auto,
        ..MERGE
    };
    let asked = Arc::<AtomicBool>::default();
    let is_asked = Arc::clone(&asked);
    let forecasts = PredictedWait {
        has_surplus: Arc::new(move |_| !is_asked.swap(true, Ordering::Relaxed)),
        ..predicted_wait(Duration::ZERO)
    };
    let profile = Arc::new(UpstreamProfile::new(1000));
    let batcher = Batcher::new(merge, profile, forecasts, Metrics::default());
    let request = Arc::new(request(&["a"]));
    assert!(batcher.begin_comparison(&request).is_none() && !asked.load(Ordering::Relaxed));
    let answer = super::fixture::rows(&request);
    let rows = Rows::split(&request, &answer.body).unwrap();
    batcher.observe(&request, &rows, &answer.body, Instant::now());
    pass(600).await;
    assert!(batcher.begin_comparison(&request).is_none() && asked.load(Ordering::Relaxed));
}
