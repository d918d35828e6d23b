//! The registry of all metrics, and the metrics about the process itself, under the names that
//! Prometheus' client libraries use.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use rustix::process::{Resource, getrlimit};

use crate::telemetry::{Gauges, exposition, metrics, named_enum};

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
        exposition::written(&lines, exposition)
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

/// `USER_HZ`: the unit of processor time in `/proc`, on every architecture that this program runs
/// on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` at every scrape. What cannot be read is left out.
#[derive(Debug)]
struct Process {
    started_s: Option<f64>,
}

impl Process {
    fn new() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            started_s: started(&read("/proc/stat"), &read("/proc/self/stat")),
        }
    }
}

/// Processor time in seconds, of `/proc/self/stat`.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let user: f64 = field(stat, 14)?;
    let system: f64 = field(stat, 15)?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// When the process started, as Unix time. `system` is `/proc/stat`, `own` is `/proc/self/stat`.
fn started(system: &str, own: &str) -> Option<f64> {
    let boot = system.lines().find_map(|line| line.strip_prefix("btime "))?;
    let after: f64 = field(own, 22)?;
    Some(boot.trim().parse::<f64>().ok()? + after / TICKS_PER_SECOND)
}

/// Field `number` of `/proc/self/stat`, counted from one. The second one is the program's name,
/// which may contain spaces and brackets.
fn field<T: std::str::FromStr>(stat: &str, number: usize) -> Option<T> {
    let (_, after) = stat.rsplit_once(") ")?;
    after.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

/// A line such as `VmRSS:  1234 kB` of `/proc/self/status`, in bytes.
fn memory(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line
        .trim_start_matches(':')
        .trim()
        .strip_suffix(" kB")?
        .trim()
        .parse()
        .ok()?;
    Some(kib * 1024)
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&stat) {
            let counter = ConstCounter::new(seconds);
            let help = "User and system processor time";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let files = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
        for (name, help, value) in [
            ("process_open_fds", "Open files and connections", files),
            (
                "process_max_fds",
                "As many files and connections as may be open",
                getrlimit(Resource::Nofile).current.map(|most| most as f64),
            ),
            (
                "process_resident_memory_bytes",
                "Memory that is held",
                memory(&status, "VmRSS").map(|bytes| bytes as f64),
            ),
            (
                "process_virtual_memory_bytes",
                "Memory that is addressed",
                memory(&status, "VmSize").map(|bytes| bytes as f64),
            ),
            (
                "process_start_time_seconds",
                "When it started, as Unix time",
                self.started_s,
            ),
        ] {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
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

    const STAT: &str = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 12345 1 2 3";

    #[test]
    fn figures_are_read_whatever_the_program_is_called() {
        assert_eq!(cpu_seconds(STAT), Some(2.0));
        assert_eq!(started("cpu 1\nbtime 1000\n", STAT), Some(1123.45));
        assert_eq!(memory("Name: x\nVmRSS:\t  12 kB\n", "VmRSS"), Some(12 * 1024));
        assert_eq!((cpu_seconds(""), memory("", "VmRSS")), (None, None));
    }
}
