use opentelemetry::trace::{SpanContext, SpanKind, TraceFlags, TraceState};
use opentelemetry_sdk::trace::{Sampler, SpanData};
use prometheus_client::registry::Registry;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{Call, Metrics, Participant, Trace, Tracer};
use crate::clock::Wall;

/// A tracer with this sampler, and the spans that it recorded.
fn tracer(sampler: Sampler, room: usize) -> (Tracer, mpsc::Receiver<SpanData>, Registry) {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let (queue, spans) = mpsc::channel(room);
    let wall = Wall::anchored("2026-03-01T00:00:00Z".parse().unwrap());
    (Tracer::new(sampler, wall, queue, metrics), spans, registry)
}

fn parent(flags: u8) -> SpanContext {
    SpanContext::new(
        7_u128.into(),
        9_u64.into(),
        TraceFlags::new(flags),
        true,
        TraceState::NONE,
    )
}

fn participant(tracer: &Tracer, parent: Option<SpanContext>) -> (super::Span, Participant) {
    let span = tracer.start(parent, "request", SpanKind::Server);
    let trace = Trace::of(&span, tracer);
    let entered = Instant::now();
    (span, Participant { trace, entered })
}

#[tokio::test(start_paused = true)]
async fn a_span_lasts_from_its_start_to_its_end() {
    let (tracer, mut spans, _) = tracer(Sampler::AlwaysOn, 9);
    let span = tracer.start(None, "request", SpanKind::Server);
    sleep(Duration::from_millis(250)).await;
    drop(span);
    let data = spans.try_recv().unwrap();
    assert_eq!(
        data.end_time.duration_since(data.start_time).unwrap(),
        Duration::from_millis(250)
    );
    assert!(data.span_context.is_valid() && data.span_context.is_sampled());
}

#[tokio::test(start_paused = true)]
async fn a_ratio_decides_by_the_trace_and_the_parents_word_counts_before_it() {
    let ratio = Sampler::TraceIdRatioBased(0.25);
    let (free, ..) = tracer(ratio.clone(), 1);
    let sampled = (0..4000)
        .filter(|_| free.start(None, "r", SpanKind::Server).is_recorded())
        .count();
    // Eleven standard deviations to either side.
    assert!((700..1300).contains(&sampled), "{sampled} of 4000");
    let (bound, ..) = tracer(Sampler::ParentBased(Box::new(ratio)), 1);
    for (flags, recorded) in [(1, true), (0, false)] {
        for _ in 0..50 {
            assert_eq!(
                bound.start(Some(parent(flags)), "r", SpanKind::Server).is_recorded(),
                recorded
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_and_counts() {
    let (tracer, mut spans, registry) = tracer(Sampler::AlwaysOn, 2);
    for _ in 0..5 {
        drop(tracer.start(None, "request", SpanKind::Server));
    }
    assert!(spans.try_recv().is_ok() && spans.try_recv().is_ok() && spans.try_recv().is_err());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("trace_spans_total{result=\"dropped\"} 3"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_call_stands_below_the_first_request_that_is_recorded() {
    let (tracer, mut spans, _) = tracer(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)), 9);
    let (quiet, unsampled) = participant(&tracer, Some(parent(0)));
    let (loud, sampled) = participant(&tracer, None);
    sleep(Duration::from_secs(2)).await;
    let both = [unsampled.clone(), sampled.clone()];
    let call = Call::start(&both, Instant::now());
    call.attempted(&"eu".into(), Some(200));
    sleep(Duration::from_secs(1)).await;
    call.finish(&both, 1, false);
    let data = spans.try_recv().unwrap();
    assert_eq!(Some(data.span_context.trace_id()), sampled.trace.id());
    assert_eq!(data.links.len(), 2);
    for one in &both {
        let facts = one.trace.facts();
        assert_eq!(
            (facts.queue_wait, facts.upstream_status),
            (Some(Duration::from_secs(2)), Some(200))
        );
    }
    assert_eq!(unsampled.trace.facts().calls.len(), 1);
    assert!(sampled.trace.facts().calls.is_empty());
    drop((quiet, loud));
}

#[tokio::test(start_paused = true)]
async fn while_tracing_is_off_a_callers_span_stays_the_parent() {
    let off = Tracer::off();
    let (span, one) = participant(&off, Some(parent(1)));
    assert!(!span.is_recorded());
    let call = Call::start(&[one], Instant::now());
    assert_eq!(call.child("POST", SpanKind::Client).context(), Some(&parent(1)));
    let (_, nobody) = participant(&off, None);
    assert!(matches!(Call::start(&[nobody], Instant::now()), Call::None));
}

#[tokio::test(start_paused = true)]
async fn a_span_has_so_many_links_and_counts_the_rest() {
    let (tracer, mut spans, _) = tracer(Sampler::AlwaysOn, 9);
    let mut span = tracer.start(None, "call", SpanKind::Internal);
    for _ in 0..200 {
        span.link(&parent(1));
    }
    drop(span);
    let links = spans.try_recv().unwrap().links;
    assert_eq!((links.links.len(), links.dropped_count), (128, 72));
}
