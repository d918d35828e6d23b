#![no_main]

#[path = "../check.rs"]
#[allow(dead_code, reason = "each target checks one thing")]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::request(data));
