//! The process's own metrics, under the names that Prometheus' client libraries use.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

/// `USER_HZ`: the unit of processor time in `/proc`, on every architecture that this program runs
/// on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self` at every scrape. What cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process {
    started_s: Option<f64>,
}

impl Process {
    pub(super) fn new() -> Self {
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

    const STAT: &str = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 3 0 12345 1 2 3";

    #[test]
    fn figures_are_read_whatever_the_program_is_called() {
        assert_eq!(cpu_seconds(STAT), Some(2.0));
        assert_eq!(started("cpu 1\nbtime 1000\n", STAT), Some(1123.45));
        assert_eq!(memory("Name: x\nVmRSS:\t  12 kB\n", "VmRSS"), Some(12 * 1024));
        assert_eq!((cpu_seconds(""), memory("", "VmRSS")), (None, None));
    }
}
