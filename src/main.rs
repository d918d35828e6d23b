//! The program: everything is in the library, so that tests can use it.

use std::process::ExitCode;

/// Long-lived answers lie among short-lived buffers here. This allocator keeps sizes apart, so that
/// the memory freed between them is used again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    defender_gateway::main()
}
