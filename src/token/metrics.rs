//! The metrics of sign-in.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::time::Instant;

use crate::telemetry::{Counters, metrics, named_enum};

named_enum! {
    /// How a token request ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Outcome, as_str {
        /// It brought a token.
        Ok = "ok",
        /// The credentials were rejected, or could not be used.
        Refused = "refused",
        /// There was no answer, or a temporary failure.
        Unavailable = "unavailable",
    }
}

metrics! {
    /// The counters of sign-in. Clones count together.
    #[derive(Clone, Debug)]
    pub struct Metrics {
        /// Token requests to sign-in, by how they ended.
        requests: Counters<Outcome> = "token_requests" => by("result"),
        /// `token_expiry_seconds`, and where they mean something
        /// `credential_loaded_timestamp_seconds` and `certificate_expiry_seconds`.
        ages: Ages = collector,
    }
}

impl Metrics {
    /// For another token source, which shows nothing until it takes over.
    pub(crate) fn of_candidate(&self) -> Self {
        Self {
            ages: Ages {
                own: Arc::default(),
                ..self.ages.clone()
            },
            ..self.clone()
        }
    }

    /// What is reported here is shown from now on, in place of what another token source reports.
    pub(super) fn take_over(&self) {
        *lock(&self.ages.shown) = Arc::clone(&self.ages.own);
    }

    /// Whether what is reported here is shown.
    pub(super) fn is_in_use(&self) -> bool {
        Arc::ptr_eq(&lock(&self.ages.shown), &self.ages.own)
    }

    /// Failures of credentials that are not in use do not count.
    pub(super) fn count(&self, result: Outcome) {
        if result == Outcome::Ok || self.is_in_use() {
            self.requests.of(result).inc();
        }
    }

    pub(super) fn expires(&self, at: Instant) {
        lock(&self.ages.own).token_expires = Some(at);
    }

    /// Sets when the credential was first read, and the seconds that its certificate is
    /// still valid.
    pub(super) fn credential(&self, loaded: Option<Timestamp>, certificate_left: Option<f64>) {
        let mut known = lock(&self.ages.own);
        known.loaded = loaded;
        known.certificate = certificate_left.map(|left| (Instant::now(), left));
    }
}

/// Values that are computed when metrics are scraped: those of the token source in use.
#[derive(Clone, Debug)]
struct Ages {
    shown: Arc<Mutex<Arc<Mutex<Known>>>>,
    own: Arc<Mutex<Known>>,
}

impl Default for Ages {
    fn default() -> Self {
        let own = Arc::<Mutex<Known>>::default();
        Self {
            shown: Arc::new(Mutex::new(Arc::clone(&own))),
            own,
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    token_expires: Option<Instant>,
    loaded: Option<Timestamp>,
    /// The seconds left at a moment.
    certificate: Option<(Instant, f64)>,
}

/// Every change is complete before anything can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector for Ages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shown = Arc::clone(&lock(&self.shown));
        let known = lock(&shown);
        let now = Instant::now();
        let left = known
            .token_expires
            .map_or(0.0, |at| at.saturating_duration_since(now).as_secs_f64());
        let mut gauge = |name, help, value: f64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        gauge(
            "token_expiry_seconds",
            "Remaining life of the app token, 0 without one",
            left,
        )?;
        if let Some(loaded) = known.loaded {
            let help = "Unix time at which the credential in use was read first";
            gauge("credential_loaded_timestamp_seconds", help, loaded.as_second() as f64)?;
        }
        if let Some((at, left)) = known.certificate {
            let left = left - now.saturating_duration_since(at).as_secs_f64();
            let help = "Remaining life of the sign-in certificate, negative once it has expired";
            gauge("certificate_expiry_seconds", help, left)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_candidate_shows_nothing_until_it_takes_over() {
        let mut registry = Registry::with_prefix("defender_gateway");
        let metrics = Metrics::register(&mut registry);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        metrics.credential(None, Some(300.0));
        let before = text();
        let candidate = metrics.of_candidate();
        candidate.credential(Some(Timestamp::UNIX_EPOCH), None);
        candidate.count(Outcome::Refused);
        assert!(metrics.is_in_use() && !candidate.is_in_use());
        assert_eq!(text(), before);

        candidate.take_over();
        metrics.credential(None, Some(200.0));
        metrics.count(Outcome::Unavailable);
        candidate.count(Outcome::Refused);
        let shown = text();
        assert!(candidate.is_in_use() && !metrics.is_in_use());
        assert!(shown.contains("credential_loaded_timestamp_seconds 0.0\n"), "{shown}");
        assert!(!shown.contains("certificate_expiry"), "{shown}");
        assert!(shown.contains("requests_total{result=\"refused\"} 1\n"), "{shown}");
        assert!(shown.contains("requests_total{result=\"unavailable\"} 0\n"), "{shown}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_remaining_life_is_that_of_the_moment_of_looking() {
        let mut registry = Registry::with_prefix("defender_gateway");
        let metrics = Metrics::register(&mut registry);
        let text = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        assert!(text(&registry).contains("defender_gateway_token_expiry_seconds 0.0\n"));
        assert!(text(&registry).contains("defender_gateway_token_requests_total{result=\"refused\"} 0\n"));

        metrics.expires(Instant::now() + Duration::from_secs(100));
        metrics.count(Outcome::Ok);
        tokio::time::advance(Duration::from_secs(40)).await;
        let shown = text(&registry);
        assert!(
            shown.contains("defender_gateway_token_expiry_seconds 60.0\n"),
            "{shown}"
        );
        assert!(
            shown.contains("defender_gateway_token_requests_total{result=\"ok\"} 1\n"),
            "{shown}"
        );

        assert!(
            !shown.contains("certificate") && !shown.contains("credential"),
            "nothing is known of them: {shown}"
        );

        metrics.credential(Some(Timestamp::UNIX_EPOCH), Some(300.0));
        tokio::time::advance(Duration::from_secs(400)).await;
        let shown = text(&registry);
        assert!(shown.contains("defender_gateway_token_expiry_seconds 0.0\n"));
        assert!(
            shown.contains("defender_gateway_certificate_expiry_seconds -100.0\n"),
            "{shown}"
        );
        assert!(
            shown.contains("defender_gateway_credential_loaded_timestamp_seconds 0.0\n"),
            "{shown}"
        );
    }
}
