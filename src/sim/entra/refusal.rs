//! A rejected token request, and its JSON.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::code::AadstsCode;
use crate::sim::rng::Rng;

/// A documented error, with its details.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Refusal {
    pub(in crate::sim) code: AadstsCode,
    about: Option<String>,
}

impl Refusal {
    pub(super) fn about(code: AadstsCode, about: &str) -> Self {
        Self {
            code,
            about: Some(about.into()),
        }
    }

    /// The error document, as the real service writes it.
    pub(super) fn document(&self, now: Timestamp, rng: &mut Rng) -> Value {
        let (trace, correlation) = (rng.guid(), rng.guid());
        let timestamp = now.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
        let about = self
            .about
            .as_ref()
            .map(|about| format!(" ('{about}')"))
            .unwrap_or_default();
        json!({
            "error": self.code.error(),
            "error_description": format!(
                "{}: {}{about} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
                self.code, self.code.text(),
            ),
            "error_codes": [self.code.number()],
            "timestamp": timestamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code.number()),
        })
    }
}

impl From<AadstsCode> for Refusal {
    fn from(code: AadstsCode) -> Self {
        Self { code, about: None }
    }
}
