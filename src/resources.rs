//! The resources of the machine that this process may use: processors and memory, as limited by a
//! container's control groups, and open files.
//!
//! They are read once, at the start. Control groups of version 2 and 1 are understood; without any,
//! nothing is limited.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Processors, memory and open files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// The number of threads that can run at a time, at least 1: the processors, or the whole part
    /// of a CPU limit.
    pub cores: usize,
    /// The CPU limit in processors, if there is one.
    pub cpu_limit: Option<f64>,
    /// The memory limit in bytes, if there is one.
    pub memory_limit: Option<u64>,
    /// The machine's memory in bytes, if it is known.
    pub physical_memory: Option<u64>,
    /// The limit of open files, which include connections, if there is one.
    pub open_files: Option<u64>,
}

/// The name of this machine, container or pod; empty when it is unknown.
pub fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Version 1 expresses the lack of a limit by a number at least this large.
const NONE: u64 = 1 << 60;

impl Machine {
    /// This machine.
    pub fn detect() -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let (cpu_limit, memory_limit) = limits(Path::new("/sys/fs/cgroup"), &groups);
        Self {
            // The standard library takes CPU limits into account as well.
            cores: thread::available_parallelism().map_or(1, usize::from),
            cpu_limit,
            memory_limit,
            physical_memory: physical(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            open_files: getrlimit(Resource::Nofile).current,
        }
    }

    /// Raises the soft limit of open files to the hard limit. The usual 1,024 are a precaution for
    /// programs that use `select`, which this one does not.
    ///
    /// # Errors
    ///
    /// The system's error, when it refuses; then the limit is unchanged.
    pub fn raise_open_files() -> io::Result<()> {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        Ok(setrlimit(Resource::Nofile, raised)?)
    }
}

/// The tightest limits of the groups in `groups` (the text of `/proc/self/cgroup`) and of the
/// groups that contain them.
fn limits(root: &Path, groups: &str) -> (Option<f64>, Option<u64>) {
    let (mut cpu, mut memory) = (Vec::new(), Vec::new());
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        for folder in around(root, controllers, path) {
            cpu.extend(version_2_cpu(&folder).or_else(|| version_1_cpu(&folder)));
            let files = ["memory.max", "memory.limit_in_bytes"];
            memory.extend(files.iter().filter_map(|file| number(&folder.join(file))));
        }
    }
    let cpu = cpu.into_iter().reduce(f64::min);
    (cpu, memory.into_iter().min().filter(|bytes| *bytes < NONE))
}

/// The group's folder and those above it, whose limits apply as well. In a container the group is
/// often seen as `/`.
fn around(root: &Path, controllers: &str, path: &str) -> Vec<PathBuf> {
    // Version 2 names no controllers; version 1 has a tree for each.
    let tree = root.join(controllers);
    let relative = Path::new(path.trim_start_matches('/'));
    relative.ancestors().map(|part| tree.join(part)).collect()
}

/// `QUOTA PERIOD` in microseconds, or `max PERIOD`.
fn version_2_cpu(folder: &Path) -> Option<f64> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    ratio(quota.parse().ok()?, period.parse().ok()?)
}

/// A quota of -1 means none.
fn version_1_cpu(folder: &Path) -> Option<f64> {
    let quota = number(&folder.join("cpu.cfs_quota_us"))?;
    ratio(quota, number(&folder.join("cpu.cfs_period_us"))?)
}

fn ratio(quota: u64, period: u64) -> Option<f64> {
    (period > 0).then(|| quota as f64 / period as f64)
}

/// The total in the text of `/proc/meminfo`.
fn physical(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_holds() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("pod/cpu.max", "150000 100000\n"),
                ("pod/memory.max", "134217728\n"),
                ("pod/gateway/cpu.max", "max 100000\n"),
                ("pod/gateway/memory.max", "max\n"),
            ],
        );
        let found = limits(root.path(), "0::/pod/gateway\n");
        assert_eq!(found, (Some(1.5), Some(128 << 20)));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[("cpu.max", "50000 100000\n"), ("memory.max", "67108864\n")],
        );
        assert_eq!(limits(root.path(), "0::/\n"), (Some(0.5), Some(64 << 20)));
    }

    #[test]
    fn version_1_has_a_tree_for_each_controller_and_huge_numbers_for_none() {
        let root = tempfile::tempdir().unwrap();
        write(
            root.path(),
            &[
                ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory/job/memory.limit_in_bytes", "33554432\n"),
            ],
        );
        let groups = "4:memory:/job\n3:cpu,cpuacct:/\n";
        assert_eq!(limits(root.path(), groups), (None, Some(32 << 20)));
        assert_eq!(limits(root.path(), "4:memory:/\n"), (None, None));
    }

    #[test]
    fn the_machines_own_memory_is_known() {
        assert_eq!(
            physical("MemTotal:       24684084 kB\nMemFree: 1 kB\n"),
            Some(24_684_084 << 10)
        );
        assert_eq!((physical(""), physical("MemTotal: many")), (None, None));
    }

    #[test]
    fn without_groups_nothing_is_limited() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(limits(root.path(), "nonsense\n0::/gone\n"), (None, None));
        assert!(Machine::detect().cores >= 1);
    }

    #[test]
    fn as_many_files_may_be_open_as_the_process_may_allow_itself() {
        Machine::raise_open_files().unwrap();
        assert_eq!(Machine::detect().open_files, getrlimit(Resource::Nofile).maximum);
    }
}
