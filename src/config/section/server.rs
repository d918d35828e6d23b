//! `[server]`: the listener that callers use.

use std::net::Ipv6Addr;
use std::time::Duration;

use url::Host;

use crate::config::key::Key;
use crate::config::reader::{Read, Reader, in_range};
use crate::config::value::parse_size;
use crate::net::Network;
use crate::server::Address;

section! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Server: "server", "the listener that callers use";

    /// Where callers connect: IP addresses with a port (port 0: any free one) and Unix sockets.
    listen: Vec<Address> = Key::list(
        "1 to 16 of \"127.0.0.1:8080\", \"[::1]:8080\", \"unix:/run/defender-gateway/gateway.sock\"",
        &["127.0.0.1:8080"],
    ) => listen;

    /// Whether `listen` may hold addresses that other machines can reach. Callers are not
    /// authenticated: whoever connects uses the gateway's Defender permission.
    allow_non_loopback: bool = Key::flag(false) => Reader::flag;

    /// Further names that callers may use in `Host`, besides loopback ones and the listen address.
    /// Others are answered 421, which keeps web pages from reaching the gateway through DNS
    /// rebinding.
    hosts: Vec<String> = Key::list("up to 64 host names or IP addresses, without a port", &[]).live()
        => |reader, key| up_to_64(reader, key, "names", host);

    /// Ingresses in front of the gateway. They are believed when they say in `Forwarded`, or in
    /// `X-Forwarded-Proto` and `X-Forwarded-Host`, whether the caller came over `https` and by which
    /// host: links to further pages then begin so. From anybody else these fields mean nothing.
    trusted_proxies: Vec<Network> = Key::list("up to 64 IP addresses or networks, such as \"10.0.0.0/8\"", &[]).live()
        => |reader, key| up_to_64(reader, key, "networks", network);

    /// The largest request body; more is answered 413. The 10,000 ids that a request may name at
    /// most take some 400 KB.
    // The minimum holds any sensible list of ids; the maximum bounds what one caller can make the
    // gateway keep in memory.
    max_body: u64 = Key::size(1 << 10, 64 << 20, "1MiB").live() => Reader::size;

    /// The memory that the whole process may take. It is divided into shares for connections,
    /// requests, answers and the cache; when a share is used up, callers wait or are answered 503.
    /// `auto`: the container's limit, which is the most in any case; without one 1GiB, or half of a
    /// smaller machine.
    memory: Option<u64> = Key::text("\"auto\", or a size of 48MiB to 1024GiB", "auto")
        => |reader, key| reader.parsed(key, memory);

    /// The longest wait for work in flight after SIGTERM. The default leaves 5 s of Kubernetes'
    /// usual 30 s.
    drain: Duration = Key::duration(Duration::ZERO, Duration::from_hours(1), "25s") => Reader::duration;

    /// How long to go on accepting after SIGTERM, before `drain` begins: for a service behind a
    /// load balancer, which needs some seconds to look elsewhere.
    // More than five minutes would exceed any load balancer's health checks.
    linger: Duration = Key::duration(Duration::ZERO, Duration::from_mins(5), "0s") => Reader::duration;
}

/// Each listener is a task and a socket, and more are not useful.
const MAX_LISTENERS: usize = 16;

/// At least one; no two collide; non-loopback ones only where that is allowed.
fn listen(reader: &mut Reader<'_>, key: &'static Key) -> Read<Vec<Address>> {
    let is_open = reader.flag(&key::allow_non_loopback);
    let said = reader.each(key, str::parse::<Address>)?;
    if said.is_empty() {
        reader.wrong(key, "is empty; callers need at least one address");
    } else if said.len() > MAX_LISTENERS {
        reader.wrong(key, format!("holds more than {MAX_LISTENERS} addresses"));
    }
    let mut listen = Vec::<Address>::new();
    for (index, said) in said.into_iter().enumerate() {
        let (path, address) = (format!("{}[{index}]", key.path()), said.value);
        if let Some(earlier) = listen.iter().find(|earlier| earlier.collides(&address)) {
            let problem = format!("{address} cannot be bound: {earlier} has its port already");
            reader.wrong_at(said.origin.clone(), path.clone(), problem);
        }
        if is_open.is_ok_and(|is_open| !is_open) && !address.is_local() {
            let problem = format!(
                "{address} can be reached by other machines, and callers are not authenticated; use a loopback address or a Unix \
                 socket, or say that you mean it with server.allow_non_loopback = true"
            );
            reader.wrong_at(said.origin, path, problem);
        }
        listen.push(address);
    }
    Ok(listen)
}

/// A short list, because every request is compared with all of it.
fn up_to_64<T>(
    reader: &mut Reader<'_>,
    key: &'static Key,
    what: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Read<Vec<T>> {
    let said = reader.each(key, parse)?;
    if said.len() > 64 {
        return Err(reader.wrong(key, format!("holds more than 64 {what}")));
    }
    Ok(said.into_iter().map(|said| said.value).collect())
}

/// `auto`, or a size.
fn memory(text: &str) -> Result<Option<u64>, String> {
    if text == "auto" {
        return Ok(None);
    }
    in_range(48 << 20..=1 << 40, parse_size(text)?).map(Some)
}

fn network(text: &str) -> Result<Network, String> {
    text.parse::<Network>().map_err(|error| error.to_string())
}

/// Lower-case, without a port; an IPv6 address comes out in brackets, with which it may be written.
fn host(text: &str) -> Result<String, String> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok(Host::<&str>::Ipv6(address).to_string());
    }
    if text.contains('*') {
        return Err("is no host name (there are no wildcards; write each name)".into());
    }
    let host = Host::parse(text).map_err(|error| format!("is no host name ({error})"))?;
    Ok(host.to_string().to_lowercase())
}
