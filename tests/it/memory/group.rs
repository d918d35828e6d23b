//! A control group of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A group with limits; removed when dropped, which the processes in it must not outlive for long.
#[derive(Debug)]
pub(super) struct Group {
    memory: PathBuf,
    /// Of version 1, where each resource has a tree of its own.
    cpu: Option<PathBuf>,
    is_version_2: bool,
}

impl Group {
    /// A group that may take so much memory, and no swap, and half a processor if asked; `None`
    /// where the system does not allow it.
    pub(super) fn try_new(memory_bytes: usize, half_a_core: Cpu) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("defender-gateway-test-{}-{number}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let group = Self::version_1(root, &name).or_else(|| Self::version_2(root, &name))?;
        let is_limited = group.limit(memory_bytes) && (half_a_core == Cpu::All || group.limit_cpu());
        is_limited.then_some(group)
    }

    fn version_1(root: &Path, name: &str) -> Option<Self> {
        let memory = root.join("memory").join(name);
        fs::create_dir(&memory).ok()?;
        let group = Self {
            cpu: Some(root.join("cpu").join(name)).filter(|cpu| fs::create_dir(cpu).is_ok()),
            memory,
            is_version_2: false,
        };
        group.memory.join("memory.limit_in_bytes").exists().then_some(group)
    }

    fn version_2(root: &Path, name: &str) -> Option<Self> {
        let memory = root.join(name);
        fs::create_dir(&memory).ok()?;
        let group = Self {
            memory,
            cpu: None,
            is_version_2: true,
        };
        group.memory.join("memory.max").exists().then_some(group)
    }

    fn limit(&self, bytes: usize) -> bool {
        let bytes = bytes.to_string();
        if self.is_version_2 {
            // Not every kernel accounts swap.
            let _ = fs::write(self.memory.join("memory.swap.max"), "0");
            return fs::write(self.memory.join("memory.max"), bytes).is_ok();
        }
        let is_limited = fs::write(self.memory.join("memory.limit_in_bytes"), &bytes).is_ok();
        let _ = fs::write(self.memory.join("memory.memsw.limit_in_bytes"), &bytes);
        // Version 1 counts what sockets hold apart, and only if asked to.
        let _ = fs::write(self.memory.join("memory.kmem.tcp.limit_in_bytes"), &bytes);
        is_limited
    }

    fn limit_cpu(&self) -> bool {
        match &self.cpu {
            Some(cpu) => {
                fs::write(cpu.join("cpu.cfs_period_us"), "100000").is_ok()
                    && fs::write(cpu.join("cpu.cfs_quota_us"), "50000").is_ok()
            }
            None => fs::write(self.memory.join("cpu.max"), "50000 100000").is_ok(),
        }
    }

    /// Words of the shell that move it, and the program that it then becomes, into the group.
    pub(super) fn enter(&self) -> String {
        let folders = [Some(&self.memory), self.cpu.as_ref()];
        let join = |folder: &PathBuf| format!("echo $$ > {}/cgroup.procs", folder.display());
        folders.into_iter().flatten().map(join).collect::<Vec<_>>().join(" && ")
    }

    /// The most that was ever in use, in KiB, with the kernel's part and what it could take back at
    /// any time.
    pub(super) fn peak_kib(&self) -> Option<usize> {
        let file = if self.is_version_2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        let bytes: usize = fs::read_to_string(self.memory.join(file)).ok()?.trim().parse().ok()?;
        Some(bytes / 1024)
    }

    /// The most that sockets held, in KiB, where that is not part of the other.
    pub(super) fn sockets_peak_kib(&self) -> usize {
        let text = fs::read_to_string(self.memory.join("memory.kmem.tcp.max_usage_in_bytes"));
        let bytes: usize = text.map_or(0, |text| text.trim().parse().unwrap());
        bytes / 1024
    }

    /// How often the kernel has killed in it.
    pub(super) fn kills(&self) -> u32 {
        let file = if self.is_version_2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.memory.join(file)).unwrap_or_default();
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.map_or(0, |kills| kills.trim().parse().unwrap())
    }
}

/// How much of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cpu {
    All,
    Half,
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in [Some(&self.memory), self.cpu.as_ref()].into_iter().flatten() {
            // It is busy until the kernel has done with the last process.
            for _ in 0..200 {
                if fs::remove_dir(folder).is_ok() || !folder.exists() {
                    break;
                }
                #[expect(clippy::disallowed_methods, reason = "nothing else runs any more")]
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
