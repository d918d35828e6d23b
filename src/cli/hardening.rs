//! What this process keeps to itself. Set before anything secret is read.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

/// Keeps memory where it is.
///
/// No core is written, neither to a file nor to a program that collects them, and other processes
/// of the same user can neither attach to this one nor read its environment (`prctl(2)`,
/// `PR_SET_DUMPABLE`); whoever has `CAP_SYS_PTRACE` still can. Nothing that this process might
/// start gains rights.
///
/// # Errors
/// When the system does not do one of them, which old kernels and strict sandboxes may. The others
/// are done.
pub(super) fn seal() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let done = [
        setrlimit(Resource::Core, none),
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
        set_no_new_privs(true),
    ];
    done.into_iter().try_for_each(|done| done).map_err(io::Error::from)
}
