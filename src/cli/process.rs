//! What this process keeps to itself. Set before anything secret is read.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;

/// Keeps memory where it is, and takes as many files as the system gives.
///
/// No core is written, neither to a file nor to a program that collects them, and other processes of the same user can neither attach to
/// this one nor read its environment (`prctl(2)`, `PR_SET_DUMPABLE`); whoever has `CAP_SYS_PTRACE` still can. Nothing that this process
/// might start gains rights. The soft limit of open files becomes the hard one: the usual 1,024 is below what the gateway accepts.
///
/// # Errors
/// When the system does not do one of them, which old kernels and strict sandboxes may. The others are done.
pub(super) fn seal() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let files = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: files.maximum,
        ..files
    };
    let done = [
        setrlimit(Resource::Core, none),
        set_dumpable_behavior(DumpableBehavior::NotDumpable),
        set_no_new_privs(true),
        setrlimit(Resource::Nofile, all),
    ];
    done.into_iter().try_for_each(|done| done).map_err(io::Error::from)
}
