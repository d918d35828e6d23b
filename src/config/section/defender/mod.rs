//! `[defender]`: the upstream, and the connection to it.

mod proxy;
mod region;

use std::path::PathBuf;
use std::time::Duration;

pub use self::proxy::Proxy;
pub use self::region::Pin;
use super::declare::{keys, section};
use crate::config::cloud::Cloud;
use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::{Read, Reader};
use crate::region::Candidate;

section! {
    #[derive(Clone, Debug)]
    pub struct Defender: "defender", "the upstream";

    /// Which of Microsoft's clouds your tenant is in. Sets the regions, `credentials.authority` and
    /// `credentials.scope` together.
    cloud: Cloud = Key::choice(&Cloud::NAMES, "public").live() => |reader, _| cloud(reader);

    /// `auto` uses the nearest host, measured; a name pins the gateway to the hosts of that
    /// geography: us, eu, uk, au, swa (Switzerland), ina (India), aea (United Arab Emirates),
    /// global (the base host).
    region: Pin = Key::text("\"auto\" or the name of a region", "auto").live() => region::pin;

    /// The longest wait for the answer to one upstream call. A call that timed out still counts
    /// against the quota.
    timeout: Duration = Key::duration(Duration::from_secs(1), Duration::from_mins(10), "60s").live_alone()
        => Reader::duration;

    /// Replaces the cloud's table of hosts: up to 32 tables `[[defender.regions]]` with `name` and
    /// `url`; several hosts may share a name. In the environment `NAME=URL,NAME=URL`. Empty: the
    /// cloud's own.
    regions: Vec<Candidate> = Key::new(Kind::Regions, DefaultValue::List(&[])).live() => region::read;

    /// Speaks HTTP/2 to hosts at `http://` addresses, which then must speak it too; without,
    /// HTTP/1.1. The simulator asks for it when its regions are at a distance, which cannot be
    /// measured otherwise.
    h2c: bool = Key::flag(false).live() => Reader::flag;

    /// The proxy for Defender, sign-in and traces: empty takes `HTTPS_PROXY` and `NO_PROXY` from the
    /// environment, `none` never uses one. Metadata services and loopback are never reached through
    /// it.
    via_proxy: Option<Proxy> = Key::text("\"\", \"none\" or http://[USER:PASSWORD@]HOST:PORT", "").hidden().live()
        => proxy::read;

    /// Certificate authorities to trust besides the built-in ones, for a proxy that opens TLS. Read
    /// again when the file changes.
    ca_file: Option<PathBuf> = Key::text("the path of a PEM file, or \"\" for the built-in roots", "").live()
        => authorities;
}

/// Connections use it as it is read here, so other content is a change.
fn authorities(reader: &mut Reader<'_>, key: &'static Key) -> Read<Option<PathBuf>> {
    let path = reader.authorities_file(key)?;
    if let Some(content) = path.as_deref().and_then(|path| reader.content(path).ok()) {
        reader.count_content(key, &content);
    }
    Ok(path)
}

/// Regions and credentials depend on it, too.
pub(super) fn cloud(reader: &mut Reader<'_>) -> Read<Cloud> {
    reader.choice(&key::cloud, &Cloud::ALL)
}

impl Defender {
    /// The hosts that may be used: all, or those of the pinned geography. Never empty.
    pub fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.regions.iter().filter(|region| self.region.allows(&region.name))
    }
}
