#![no_main]

#[path = "../check/mod.rs"]
#[allow(dead_code, unused_imports, reason = "each target checks one thing")]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::path(data));
