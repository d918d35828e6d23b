//! Traces: spans of requests and calls, sent to a collector over OTLP, and W3C Trace Context from
//! callers to the upstream.
//!
//! ```text
//! traceparent ─► Span (server) ── Trace, on the caller ──► Call (for one request or many, linked to each) ──► Span (attempt) ─► traceparent
//!                      └───────────────────────┬───────────────────────────────────────────────────────────────────────┘
//!                                              ▼ bounded queue
//!                                           Exporter ─► POST /v1/traces
//! ```
//!
//! Spans are made by hand where a request passes, not from log lines: the log's level changes
//! nothing about traces. While tracing is off ([`Tracer::off`]) nothing here allocates, except for
//! a caller's own trace state that is passed on.
//!
//! Invariants: whoever ends a span never waits, whatever the collector does; what is kept is
//! bounded; no span holds a token, a secret, a body, an id or a path that is not ours.

mod call;
mod context;
mod export;
mod request_trace;
mod span;
mod traced_exchange;
mod tracer;

pub use call::{Call, Participant};
pub use context::{TRACEPARENT, TRACESTATE, read, write};
pub use export::{Collector, Exporter, Metrics};
pub use opentelemetry::trace::SpanKind;
pub use opentelemetry_sdk::trace::Sampler;
pub use request_trace::{RequestFacts, Trace};
pub use span::Span;
pub use traced_exchange::traced;
pub use tracer::Tracer;

#[cfg(test)]
mod tests;
