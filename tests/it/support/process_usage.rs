//! What a program holds of the machine.

use std::path::PathBuf;

/// Open files, threads and resident memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessUsage {
    pub(crate) files: usize,
    pub(crate) threads: usize,
    pub(crate) memory_kib: usize,
}

impl ProcessUsage {
    /// Now, by `/proc`.
    ///
    /// # Panics
    /// There is no such process any more.
    pub(crate) fn of(pid: u32) -> Self {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let count = |folder: &str| std::fs::read_dir(process.join(folder)).unwrap().count();
        // The program's files are nobody else's business, but since Linux 6.2 their number is told.
        let files = std::fs::metadata(process.join("fd")).unwrap().len();
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            files: usize::try_from(files)
                .ok()
                .filter(|files| *files > 0)
                .unwrap_or_else(|| count("fd")),
            threads: count("task"),
            memory_kib: memory.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}
