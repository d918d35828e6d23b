//! `[server]`: the listener that callers use.

use std::time::Duration;

use url::Host;

use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::{Reader, Sourced};
use crate::config::value::{Listen, parse_size};
use crate::net::Network;

static LISTEN: Key = Key::new(
    "server",
    "listen",
    Kind::List("1 to 16 of \"127.0.0.1:8080\", \"[::1]:8080\", \"unix:/run/defender-gateway/gateway.sock\""),
    DefaultValue::List(&["127.0.0.1:8080"]),
    "Where callers connect: IP addresses with a port (port 0: any free one) and Unix sockets.",
);
static ALLOW_NON_LOOPBACK: Key = Key::new(
    "server",
    "allow_non_loopback",
    Kind::Flag,
    DefaultValue::Flag(false),
    "Whether `listen` may hold addresses that other machines can reach. Callers are not authenticated: whoever connects uses the \
     gateway's Defender permission.",
);
static HOSTS: Key = Key::new(
    "server",
    "hosts",
    Kind::List("up to 64 host names or IP addresses, without a port"),
    DefaultValue::List(&[]),
    "Further names that callers may use in `Host`, besides loopback ones and the listen address. Others are answered 421, which \
     keeps web pages from reaching the gateway through DNS rebinding.",
)
.live();
static TRUSTED_PROXIES: Key = Key::new(
    "server",
    "trusted_proxies",
    Kind::List("up to 64 IP addresses or networks, such as \"10.0.0.0/8\""),
    DefaultValue::List(&[]),
    "Ingresses in front of the gateway. They are believed when they say in `Forwarded` or `X-Forwarded-Proto` whether the caller came \
     over `https`: links to further pages then begin so. From anybody else these fields mean nothing.",
)
.live();
static MAX_BODY: Key = Key::new(
    "server",
    "max_body",
    // The minimum holds any sensible list of ids; the maximum bounds what one caller can make the
    // gateway keep in memory.
    Kind::Size(1 << 10, 64 << 20),
    DefaultValue::Text("1MiB"),
    "The largest request body; more is answered 413.",
)
.live();
static MEMORY: Key = Key::new(
    "server",
    "memory",
    Kind::Text("\"auto\", or a size of 48MiB to 1024GiB"),
    DefaultValue::Text("auto"),
    "The memory that the whole process may take. It is divided into shares for connections, requests, answers and the cache; when a \
     share is used up, callers wait or are answered 503. `auto`: the container's limit, which is the most in any case; without one \
     1GiB, or half of a smaller machine.",
);
static DRAIN: Key = Key::new(
    "server",
    "drain",
    Kind::Duration(Duration::ZERO, Duration::from_hours(1)),
    DefaultValue::Text("25s"),
    "The longest wait for work in flight after SIGTERM. The default leaves 5 s of Kubernetes' usual 30 s.",
);

static LINGER: Key = Key::new(
    "server",
    "linger",
    // More than five minutes would exceed any load balancer's health checks.
    Kind::Duration(Duration::ZERO, Duration::from_mins(5)),
    DefaultValue::Text("0s"),
    "How long to go on accepting after SIGTERM, before `drain` begins: for a service behind a load balancer, which needs some \
     seconds to look elsewhere.",
);

pub(super) static KEYS: &[&Key] = &[
    &LISTEN,
    &ALLOW_NON_LOOPBACK,
    &HOSTS,
    &TRUSTED_PROXIES,
    &MAX_BODY,
    &MEMORY,
    &DRAIN,
    &LINGER,
];

/// Each listener is a task and a socket, and more are not useful.
const MAX_LISTENERS: usize = 16;
/// Every request's `Host` is compared with all of them.
const MAX_HOSTS: usize = 64;
/// The peer of every request is compared with all of them.
const MAX_PROXIES: usize = 64;

/// Where and how callers are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// At least one; no two collide; non-loopback ones only where that was allowed.
    pub listen: Vec<Listen>,
    /// Additional accepted host names, lower-case, without a port; IPv6 addresses in brackets.
    pub hosts: Vec<String>,
    /// The networks of proxies that are trusted to name the scheme that the caller used.
    pub trusted_proxies: Vec<Network>,
    /// The largest request body in bytes, 1 KiB to 64 MiB.
    pub max_body: u64,
    /// The memory that the process may take, in bytes, at least 48 MiB; `None`: as much as the
    /// container or the machine allows.
    pub memory: Option<u64>,
    /// The longest wait for requests in flight when stopping; zero does not wait.
    pub drain: Duration,
    /// How long to go on accepting before that, at most five minutes.
    pub linger: Duration,
}

impl Server {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.each(&LISTEN, str::parse::<Listen>);
        let open = reader.flag(&ALLOW_NON_LOOPBACK);
        let hosts = reader.each(&HOSTS, host);
        let proxies = reader.each(&TRUSTED_PROXIES, |text| {
            text.parse::<Network>().map_err(|error| error.to_string())
        });
        let max_body = reader.size(&MAX_BODY);
        let memory = reader.parsed(&MEMORY, memory);
        let drain = reader.duration(&DRAIN);
        let linger = reader.duration(&LINGER);

        if let Some(listen) = &listen {
            check_count(reader, listen);
            check_collisions(reader, listen);
            if open == Some(false) {
                check_loopback(reader, listen);
            }
        }
        if hosts.as_ref().is_some_and(|hosts| hosts.len() > MAX_HOSTS) {
            reader.wrong(&HOSTS, format!("holds more than {MAX_HOSTS} names"));
        }
        if proxies.as_ref().is_some_and(|proxies| proxies.len() > MAX_PROXIES) {
            reader.wrong(&TRUSTED_PROXIES, format!("holds more than {MAX_PROXIES} networks"));
        }
        Some(Self {
            listen: listen?.into_iter().map(|said| said.value).collect(),
            hosts: hosts?.into_iter().map(|said| said.value).collect(),
            trusted_proxies: proxies?.into_iter().map(|said| said.value).collect(),
            max_body: max_body?,
            memory: memory?,
            drain: drain?,
            linger: linger?,
        })
    }
}

fn check_count(reader: &mut Reader<'_>, listen: &[Sourced<Listen>]) {
    if listen.is_empty() {
        reader.wrong(&LISTEN, "is empty; callers need at least one address");
    } else if listen.len() > MAX_LISTENERS {
        reader.wrong(&LISTEN, format!("holds more than {MAX_LISTENERS} addresses"));
    }
}

fn check_collisions(reader: &mut Reader<'_>, listen: &[Sourced<Listen>]) {
    for (index, said) in listen.iter().enumerate() {
        if let Some(earlier) = listen
            .iter()
            .take(index)
            .find(|earlier| earlier.value.collides(&said.value))
        {
            let problem = format!("{} cannot be bound: {} has its port already", said.value, earlier.value);
            reader.wrong_at(said.origin.clone(), format!("{}[{index}]", LISTEN.path()), problem);
        }
    }
}

fn check_loopback(reader: &mut Reader<'_>, listen: &[Sourced<Listen>]) {
    for (index, said) in listen.iter().enumerate() {
        if !said.value.is_local() {
            let problem = format!(
                "{} can be reached by other machines, and callers are not authenticated; use a loopback address or a Unix socket, or \
                 say that you mean it with server.allow_non_loopback = true",
                said.value
            );
            reader.wrong_at(said.origin.clone(), format!("{}[{index}]", LISTEN.path()), problem);
        }
    }
}

/// `auto`, or a size.
fn memory(text: &str) -> Result<Option<u64>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let bytes = parse_size(text)?;
    let is_allowed = (48 << 20..=1 << 40).contains(&bytes);
    is_allowed
        .then_some(Some(bytes))
        .ok_or_else(|| "is out of range".into())
}

fn host(text: &str) -> Result<String, String> {
    let host = Host::parse(text).map_err(|error| format!("is no host name ({error})"))?;
    Ok(host.to_string().to_lowercase())
}
