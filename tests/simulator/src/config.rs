//! The settings of a simulator.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;

use super::control::Event;
use super::entra::Certificate;
use super::fault::{Fault, Plan, SignInFault};
use super::history::History;
use super::limit::{Limit, Rejected, Scope, Shape};
use super::record::Log;
use super::span;
use super::wire::Tls;

/// The tenant of the demo.
pub const TENANT_ID: &str = "5f0e2a1c-3d4b-4c6d-8e9f-0a1b2c3d4e5f";
/// The app registration of the demo.
pub const CLIENT_ID: &str = "a1b2c3d4-5e6f-4a0b-9c8d-7e6f5a4b3c2d";
/// The client secret of the demo, which is valid for simulators only.
pub const CLIENT_SECRET: &str = "simulated~secret.opens-nothing_but+simulators";
/// The scope that Defender's documentation asks for.
pub const SCOPE: &str = "https://api.securitycenter.microsoft.com/.default";
/// The application permission that the operation needs.
pub const ROLE: &str = "Machine.Read.All";
/// The value of `X-IDENTITY-HEADER` that the App Service form of managed identity requires.
pub const IDENTITY_HEADER: &str = "simulated-identity-header";

/// The settings of a simulator. Start from [`Config::default`] and change what the test is about.
#[derive(Clone, Debug)]
pub struct Config {
    /// The loopback address of sign-in. With port 0 every host gets a free port, otherwise the
    /// regions follow on the next ports. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The regions' hosts; one or more, with different names. Default: `us` 90 ms, `eu` 12 ms, `uk`
    /// 25 ms, `au` 240 ms away.
    pub regions: Vec<Region>,
    /// The limits of one app in one tenant over all regions together. Default: the documented ones.
    pub limits: Vec<Limit>,
    /// Which calls count together. Default: all.
    pub scope: Scope,
    /// How calls are counted. Default: sliding log, the strictest.
    pub shape: Shape,
    /// Whether refused calls count. Default: they do.
    pub rejected: Rejected,
    /// How a 429 states the wait. Default: in a header field and in the message.
    pub throttle: Throttle,
    /// The scan history of the tenant.
    pub history: History,
    /// Sign-in.
    pub sign_in: SignIn,
    /// The only tenant. Default [`TENANT_ID`].
    pub tenant_id: String,
    /// The only app registration. Default [`CLIENT_ID`].
    pub client_id: String,
    /// Its secret. Default [`CLIENT_SECRET`].
    pub client_secret: SecretString,
    /// Its secret of before, which is rejected as expired and not as unknown. Default: none.
    pub expired_secret: Option<SecretString>,
    /// Another issuer's token that is registered with it. Default: none.
    pub federated_token: Option<SecretString>,
    /// The certificates registered with it, which client assertions have to match. Default: none.
    pub certificates: Vec<Certificate>,
    /// With it every host serves TLS as well as clear text, on the same port. Default: clear text
    /// only.
    pub tls: Option<Tls>,
    /// How long a token lives, a whole number of seconds. Default 3599 s, as documented.
    pub token_lifetime: Duration,
    /// The scheduled changes. Default: none.
    pub schedule: Vec<Event>,
    /// Where a line per call is written. Default: nowhere;
    /// [`Simulator::calls`](super::Simulator::calls) always works.
    pub log: Option<Log>,
    /// The seed of everything random. Default 1.
    pub seed: u64,
    /// The most calls, token requests and violations that are kept, each; the oldest are dropped
    /// first. Default 20,000.
    pub remember: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            regions: [("us", 90), ("eu", 12), ("uk", 25), ("au", 240)]
                .map(|(name, ms)| Region::new(name, Duration::from_millis(ms)))
                .into(),
            limits: Limit::documented(),
            scope: Scope::default(),
            shape: Shape::default(),
            rejected: Rejected::default(),
            throttle: Throttle::default(),
            history: History::default(),
            sign_in: SignIn::default(),
            tenant_id: TENANT_ID.into(),
            client_id: CLIENT_ID.into(),
            client_secret: CLIENT_SECRET.into(),
            expired_secret: None,
            federated_token: None,
            certificates: Vec::new(),
            tls: None,
            token_lifetime: Duration::from_secs(3_599),
            schedule: Vec::new(),
            log: None,
            seed: 1,
            remember: 20_000,
        }
    }
}

impl Config {
    /// Without latency, for tests that are about something else.
    pub fn instant() -> Self {
        let mut config = Self::default();
        config.sign_in.latency = Duration::ZERO;
        for region in &mut config.regions {
            region.latency = Duration::ZERO;
        }
        config
    }

    pub(super) fn region(&mut self, name: &str) -> Option<&mut Region> {
        self.regions.iter_mut().find(|region| region.name == name)
    }

    /// Why these settings are invalid.
    pub(super) fn mistake(&self) -> Option<String> {
        if !self.listen.ip().is_loopback() {
            return Some(format!("a simulator listens on loopback only, not on {}", self.listen));
        }
        if self.regions.is_empty() {
            return Some("a simulator needs a region".into());
        }
        let last = usize::from(self.listen.port()) + self.regions.len();
        if self.listen.port() != 0 && last > usize::from(u16::MAX) {
            return Some(format!(
                "no ports are left behind {} for the regions",
                self.listen.port()
            ));
        }
        let mut known = BTreeSet::new();
        for region in &self.regions {
            let name = &region.name;
            if !known.insert(name.as_str()) {
                return Some(format!("two regions are named {name:?}"));
            }
            if !region.has_good_name() {
                return Some(format!(
                    "{name:?} is no region name: lower-case letters, digits, hyphens"
                ));
            }
        }
        let mut scheduled = self.schedule.iter().filter_map(|event| event.action.region());
        if let Some(name) = scheduled.find(|name| !known.contains(name)) {
            return Some(format!("the schedule names an unknown region {name:?}"));
        }
        let is_empty_page = self.history.page_size == 0 || self.history.max_ids == Some(0);
        is_empty_page.then(|| "page_size and max_ids of the history must be at least 1".into())
    }
}

/// One region's host; all but its name can be changed while it runs.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Its name: lower-case letters, digits and hyphens.
    pub name: String,
    /// The round-trip time. Half of it passes before a call counts as arrived, half after it was
    /// answered; a new connection costs one more, as a TLS handshake would.
    #[serde(default, deserialize_with = "span::deserialize")]
    pub latency: Duration,
    /// Each half of the round trip takes up to half of this longer, at random.
    #[serde(default, deserialize_with = "span::deserialize")]
    pub jitter: Duration,
    #[serde(default)]
    pub faults: Plan<Fault>,
}

impl Region {
    /// A region that is `latency` away and works.
    pub fn new(name: &str, latency: Duration) -> Self {
        Self {
            name: name.into(),
            latency,
            jitter: Duration::ZERO,
            faults: Plan::none(),
        }
    }

    fn has_good_name(&self) -> bool {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !self.name.is_empty() && self.name.chars().all(good)
    }
}

/// How sign-in behaves; can be changed while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct SignIn {
    /// The only scope it knows. Tokens are for it without `/.default`. Default [`SCOPE`].
    pub scope: String,
    /// The roles in a token. Default: [`ROLE`].
    pub roles: Vec<String>,
    /// An audience other than the scope's: Defender answers such a token with 403. Default: none.
    pub audience: Option<String>,
    /// Whether an assertion may be used again. Default: once.
    pub assertions: Assertions,
    /// When the token should be renewed, after issue. Default: not said, as is usual.
    pub refresh_in: Option<Duration>,
    /// How long an answer takes. Default 20 ms.
    pub latency: Duration,
    pub faults: Plan<SignInFault>,
}

impl SignIn {
    /// The audience of a token: the scope without `/.default`.
    pub(super) fn resource(&self) -> &str {
        self.scope.strip_suffix("/.default").unwrap_or(&self.scope)
    }
}

impl Default for SignIn {
    fn default() -> Self {
        Self {
            scope: SCOPE.into(),
            roles: vec![ROLE.into()],
            audience: None,
            assertions: Assertions::default(),
            refresh_in: None,
            latency: Duration::from_millis(20),
            faults: Plan::none(),
        }
    }
}

/// How often a signed assertion may be used (RFC 7523 §3 leaves it to the server).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Assertions {
    /// Once: the strictest, which a gateway has to satisfy.
    #[default]
    Once,
    /// Until it expires, as the service does: Microsoft's own libraries keep theirs for minutes.
    UntilExpiry,
}

/// How a 429 states the wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// In the `Retry-After` field.
    pub header: RetryAfter,
    pub message: Message,
}

/// The `Retry-After` field of a 429. It is documented, but no captured answer shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryAfter {
    /// Seconds, rounded up.
    #[default]
    Seconds,
    /// An HTTP date, rounded up to the second.
    Date,
    /// No such field.
    Absent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// As seen in 2022: ends with "You can send requests again in 8 seconds."
    #[default]
    WithSeconds,
    /// As seen in 2021: names the limit only.
    WithoutSeconds,
    /// Nothing.
    Absent,
}
