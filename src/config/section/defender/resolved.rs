//! The section's keys and values.

use std::path::PathBuf;
use std::time::Duration;

use super::proxy::{self, Proxy};
use super::region::{self, Pin, Region};
use crate::config::cloud::Cloud;
use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::Reader;

static CLOUD: Key = Key::new(
    "defender",
    "cloud",
    Kind::Choice(&["public", "gcc", "gcc-high", "dod"]),
    DefaultValue::Text("public"),
    "Which of Microsoft's clouds your tenant is in. Sets the regions, `credentials.authority` and `credentials.scope` together.",
)
.live();
pub(super) static REGION: Key = Key::new(
    "defender",
    "region",
    Kind::Text("\"auto\" or the name of a region"),
    DefaultValue::Text("auto"),
    "`auto` uses the nearest host, measured; a name pins the gateway to the hosts of that geography: us, eu, uk, au, swa \
     (Switzerland), ina (India), aea (United Arab Emirates), global (the base host).",
)
.live();
static TIMEOUT: Key = Key::new(
    "defender",
    "timeout",
    Kind::Duration(Duration::from_secs(1), Duration::from_mins(10)),
    DefaultValue::Text("60s"),
    "The longest wait for the answer to one upstream call. A call that timed out still counts against the quota.",
)
.live_alone();
pub(super) static REGIONS: Key = Key::new(
    "defender",
    "regions",
    Kind::Regions,
    DefaultValue::List(&[]),
    "Replaces the cloud's table of hosts: up to 32 tables `[[defender.regions]]` with `name` and `url`; several hosts may share a \
     name. In the environment `NAME=URL,NAME=URL`. Empty: the cloud's own.",
)
.live();
pub(super) static VIA_PROXY: Key = Key::new(
    "defender",
    "via_proxy",
    Kind::Text("\"\", \"none\" or http://[USER:PASSWORD@]HOST:PORT"),
    DefaultValue::Text(""),
    "The proxy for Defender and sign-in: empty takes `HTTPS_PROXY` and `NO_PROXY` from the environment, `none` never uses one. \
     Metadata services and loopback are never reached through it.",
)
.hidden()
.live();
static H2C: Key = Key::new(
    "defender",
    "h2c",
    Kind::Flag,
    DefaultValue::Flag(false),
    "Speaks HTTP/2 to hosts at `http://` addresses, which then must speak it too; without, HTTP/1.1. The simulator asks for it when its \
     regions are at a distance, which cannot be measured otherwise.",
)
.live();
static CA_FILE: Key = Key::new(
    "defender",
    "ca_file",
    Kind::Text("the path of a PEM file, or \"\" for the built-in roots"),
    DefaultValue::Text(""),
    "Certificate authorities to trust besides the built-in ones, for a proxy that opens TLS.",
)
.live();

pub(in crate::config::section) static KEYS: &[&Key] =
    &[&CLOUD, &REGION, &TIMEOUT, &REGIONS, &H2C, &VIA_PROXY, &CA_FILE];

/// The upstream, and the connection to it.
#[derive(Clone, Debug)]
pub struct Defender {
    /// The cloud that hosts, authority and scope belong to.
    pub cloud: Cloud,
    /// 1 to 32 hosts with different addresses; several may share a name.
    pub regions: Vec<Region>,
    /// Which of them may be used; a pinned name exists.
    pub pin: Pin,
    /// The longest wait for one answer.
    pub timeout: Duration,
    /// Whether hosts at `http` addresses speak HTTP/2.
    pub h2c: bool,
    /// The proxy, if there is one.
    pub proxy: Option<Proxy>,
    /// Certificate authorities to trust besides the built-in ones.
    pub ca_file: Option<PathBuf>,
}

/// The cloud alone, on which the credentials depend, too.
pub(in crate::config) fn cloud(reader: &mut Reader<'_>) -> Option<Cloud> {
    reader.choice(&CLOUD, &Cloud::WORDS)
}

impl Defender {
    pub(in crate::config) fn read(reader: &mut Reader<'_>, cloud: Option<Cloud>) -> Option<Self> {
        let regions = region::read(reader, cloud);
        let pin = region::pin(reader, regions.as_deref());
        let timeout = reader.duration(&TIMEOUT);
        let h2c = reader.flag(&H2C);
        let proxy = proxy::read(reader);
        let ca_file = reader.authorities_file(&CA_FILE);
        Some(Self {
            cloud: cloud?,
            regions: regions?,
            pin: pin?,
            timeout: timeout?,
            h2c: h2c?,
            proxy: proxy.ok()?,
            ca_file: ca_file.ok()?,
        })
    }

    /// The hosts that may be used: all, or those of the pinned geography. Never empty.
    pub fn candidates(&self) -> impl Iterator<Item = &Region> {
        self.regions.iter().filter(|region| self.pin.allows(&region.name))
    }
}
