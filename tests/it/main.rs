//! Integration tests, in one binary.

// `cfg(test)`, so that clippy knows these modules as tests, where `unwrap` is fine.
#[cfg(test)]
mod faults;
