//! What must hold for any bytes. Used by the fuzz targets, and by a short run in the integration
//! tests.

mod config;
mod fields;
mod scan;
mod sign_in;
mod simulator;
mod state;
mod store;
mod upstream;

pub(crate) use config::config;
pub(crate) use fields::{fields, trace};
pub(crate) use scan::{key, path, request, secrets, split};
pub(crate) use sign_in::sign_in;
pub(crate) use simulator::scenario;
pub(crate) use state::state;
pub(crate) use store::{ledger, value};
pub(crate) use upstream::{link, throttled};

/// What stands before the first empty line, and what stands behind it.
fn parts(data: &[u8]) -> (&[u8], &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n");
    end.map_or((data, &[]), |end| (&data[..end], &data[end + 2..]))
}

/// The fields of `lines` that HTTP would let through, a `name: value` each.
fn headers(lines: &[u8]) -> http::HeaderMap {
    let field = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = http::HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = http::HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        Some((name, value))
    };
    let mut headers = http::HeaderMap::new();
    for (name, value) in lines.split(|byte| *byte == b'\n').filter_map(field) {
        headers.append(name, value);
    }
    headers
}

/// Runs what waits for nothing but paused time.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O")
        .block_on(work)
}
