//! The registry of all metrics, and the metrics about the process itself.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::process::Process;
use super::{Gauges, exposition, families, metrics, named_enum};

/// Put before the name of every metric, with an underscore.
pub const PREFIX: &str = "defender_gateway";

/// The format of exported metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// The Prometheus text format, version 0.0.4: what every scraper understands.
    Text,
    /// `OpenMetrics` 1.0.
    OpenMetrics,
}

impl Exposition {
    /// For `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics of one gateway.
#[derive(Debug)]
pub struct Registry {
    root: prometheus_client::registry::Registry,
    /// Without the prefix, because these names are the same for all programs.
    process: prometheus_client::registry::Registry,
    mode: ModeGauge,
}

impl Registry {
    /// A registry with `build_info` and `mode`. `version` is the program's.
    pub fn new(version: &'static str) -> Self {
        let mut root = prometheus_client::registry::Registry::with_prefix(PREFIX);
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version }).set(1);
        root.register("build_info", "The version that runs, always 1", build);
        let mode = ModeGauge::register(&mut root);
        mode.set(Mode::default());
        let mut process = prometheus_client::registry::Registry::default();
        process.register_collector(Box::new(Process::new()));
        Self { root, process, mode }
    }

    /// Where parts register their metrics; the prefix is added automatically.
    pub fn root(&mut self) -> &mut prometheus_client::registry::Registry {
        &mut self.root
    }

    /// The `mode` metric. Clones show the same.
    pub fn mode(&self) -> ModeGauge {
        self.mode.clone()
    }

    /// All metrics as text.
    pub fn encode(&self, exposition: Exposition) -> String {
        let mut lines = String::new();
        let written = text::encode_registry(&mut lines, &self.root)
            .and_then(|()| text::encode_registry(&mut lines, &self.process))
            .and_then(|()| text::encode_eof(&mut lines));
        if let Err(error) = written {
            // Writing to memory does not fail, so a metric cannot be encoded; the metrics before it
            // are still valid.
            tracing::warn!(%error, "a metric could not be written");
        }
        let lines = families::grouped(&lines);
        match exposition {
            Exposition::OpenMetrics => lines,
            Exposition::Text => exposition::prometheus(&lines),
        }
    }
}

named_enum! {
    /// The state of the gateway as a whole.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum Mode, as_str {
        /// No problem is known.
        #[default]
        Normal = "normal",
        /// There is a problem, which `problems` in `/status` describes.
        Degraded = "degraded",
        /// The shared store does not answer: no calls leave, and only cached answers are served.
        StoreLost = "store-lost",
        /// Shutting down: requests in flight are finished.
        Draining = "draining",
    }
}

metrics! {
    /// The metric `mode{mode}`: exactly one of its values is 1.
    #[derive(Clone, Debug)]
    pub struct ModeGauge {
        /// 1 for the mode that the gateway is in, 0 for the others.
        modes: Gauges<Mode> = "mode" => by("mode"),
    }
}

impl ModeGauge {
    /// Shows `current`.
    pub fn set(&self, current: Mode) {
        for mode in Mode::ALL {
            self.modes.of(mode).set(i64::from(mode == current));
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_and_mode_are_always_there() {
        let registry = Registry::new("1.2.3");
        registry.mode().set(Mode::Draining);
        let text = registry.encode(Exposition::Text);
        assert!(
            text.contains("defender_gateway_build_info{version=\"1.2.3\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("defender_gateway_mode{mode=\"draining\"} 1\n"), "{text}");
        assert!(text.contains("defender_gateway_mode{mode=\"normal\"} 0\n"), "{text}");
    }

    #[test]
    fn only_openmetrics_ends_with_its_marker() {
        let registry = Registry::new("1");
        assert!(registry.encode(Exposition::OpenMetrics).ends_with("# EOF\n"));
        assert!(!registry.encode(Exposition::Text).contains("# EOF"));
    }
}
