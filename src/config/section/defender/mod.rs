//! `[defender]`: the upstream, and the connection to it.

mod proxy;

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::config::cloud::Cloud;
use crate::config::config_error::{Origin, nearest};
use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::raw::{Node, Raw};
use crate::config::reader::{Read, Reader, Recorded};
use crate::config::value::address;
use crate::region::Candidate;

pub use proxy::Proxy;

section! {
    #[derive(Clone, Debug)]
    pub struct Defender: "defender", "the upstream";

    /// Which of Microsoft's clouds your tenant is in. Sets the regions, `credentials.authority` and
    /// `credentials.scope` together.
    cloud: Cloud = Key::choice(&Cloud::NAMES, "public").live() => |reader, _| cloud(reader);

    /// `auto` uses the nearest host, measured; a name pins the gateway to the hosts of that
    /// geography: us, eu, uk, au, swa (Switzerland), ina (India), aea (United Arab Emirates),
    /// global (the base host).
    region: Option<String> = Key::text("\"auto\" or the name of a region", "auto").live() => pin;

    /// The longest wait for the answer to one upstream call, of which three quarters are for it to
    /// begin. A call that timed out still counts against the quota.
    timeout: Duration = Key::duration(Duration::from_secs(1), Duration::from_mins(10), "60s").live_alone()
        => Reader::duration;

    /// Replaces the cloud's table of hosts: up to 32 tables `[[defender.regions]]` with `name` and
    /// `url`; several hosts may share a name. In the environment `NAME=URL,NAME=URL`. Empty: the
    /// cloud's own.
    regions: Vec<Candidate> = Key::new(Kind::Regions, DefaultValue::List(&[])).live() => regions;

    /// Speaks HTTP/2 to hosts at `http://` addresses, which then must speak it too; without,
    /// HTTP/1.1. The simulator asks for it when its regions are at a distance, which cannot be
    /// measured otherwise.
    h2c: bool = Key::flag(false).live() => Reader::flag;

    /// The proxy for Defender, sign-in and traces: empty takes `HTTPS_PROXY` and `NO_PROXY` from
    /// the environment, `none` never uses one. Metadata services and loopback are never reached
    /// through it.
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
        let is_meant = |region: &&Candidate| self.region.as_ref().is_none_or(|pin| *pin == region.name);
        self.regions.iter().filter(is_meant)
    }
}

/// Each host is probed, so there is a limit, which real setups do not reach.
const MAX_REGIONS: usize = 32;

/// The configured hosts, or else the cloud's. One invalid host makes the list invalid, but the
/// others are still checked.
fn regions(reader: &mut Reader<'_>, key: &'static Key) -> Read<Vec<Candidate>> {
    let cloud = cloud(reader);
    let items = reader.items(key)?;
    if items.is_empty() {
        return Ok(table(cloud?));
    }
    if items.len() > MAX_REGIONS {
        let problem = format!("holds {} hosts; allowed is 1 to {MAX_REGIONS}", items.len());
        return Err(reader.wrong(key, problem));
    }
    let mut regions = Ok(Vec::<Candidate>::new());
    for (index, item) in items.into_iter().enumerate() {
        let path = format!("{}[{index}]", key.path());
        let origin = item.origin.clone();
        let region = one(reader, &path, item, cloud.ok());
        regions = regions.and_then(|mut regions| {
            let region = region?;
            if regions.iter().any(|earlier| earlier.url == region.url) {
                return Err(reader.wrong_at(origin, path, format!("{} is listed twice", region.url)));
            }
            regions.push(region);
            Ok(regions)
        });
    }
    regions
}

fn table(cloud: Cloud) -> Vec<Candidate> {
    let parsed = |(name, url): &(&str, &str)| {
        let (name, url) = ((*name).into(), Url::parse(url).ok()?);
        Some(Candidate { name, url })
    };
    cloud.regions().iter().filter_map(parsed).collect()
}

fn one(reader: &mut Reader<'_>, path: &str, item: Node, cloud: Option<Cloud>) -> Read<Candidate> {
    let Raw::Table(entries) = item.raw else {
        let form = match item.origin {
            Origin::Variable(_) => "NAME=URL",
            _ => "{ name = \"eu\", url = \"https://…\" }",
        };
        return Err(reader.wrong_at(item.origin, path, format!("is {}; write {form}", item.raw.shape())));
    };
    for field in ["name", "url"] {
        if !entries.iter().any(|entry| entry.name == field) {
            let problem = format!("has no {field}; a region has name and url");
            reader.wrong_at(item.origin.clone(), path, problem);
        }
    }
    let (mut name, mut url) = (None, None);
    for entry in entries {
        let Node { raw, origin, .. } = entry.value;
        let (origin, result) = match (entry.name.as_str(), &raw) {
            ("name", Raw::Text(text)) => (origin, region_name(text).map(|text| name = Some(text))),
            ("url", Raw::Text(text)) => (origin, region_url(text, cloud).map(|parsed| url = Some(parsed))),
            (_, Raw::Text(_)) => (entry.origin, Err("is unknown; a region has name and url".into())),
            (_, raw) => (origin, Err(format!("is {}; write a text in quotes", raw.shape()))),
        };
        if let Err(problem) = result {
            reader.wrong_at(origin, format!("{path}.{}", entry.name), problem);
        }
    }
    match (name, url) {
        (Some(name), Some(url)) => Ok(Candidate { name, url }),
        _ => Err(Recorded),
    }
}

fn region_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text == "auto" {
        return Err("\"auto\" means the nearest region and cannot name one".into());
    }
    if !(1..=32).contains(&text.len()) || !text.bytes().all(allowed) {
        return Err(format!(
            "{text:?} is no name; allowed is 1 to 32 lower-case letters, digits and hyphens"
        ));
    }
    Ok(text.into())
}

fn region_url(text: &str, cloud: Option<Cloud>) -> Result<Url, String> {
    let url = address::base(text).map_err(|problem| format!("the address {problem}"))?;
    if let (Some(cloud), Some(host)) = (cloud, url.host_str()) {
        cloud
            .accepts_api(host, url.path())
            .map_err(|problem| format!("{host} {problem}"))?;
    }
    Ok(url)
}

/// `auto`, or the name of a region that exists.
fn pin(reader: &mut Reader<'_>, key: &'static Key) -> Read<Option<String>> {
    let regions = reader.field(&key::regions, regions);
    reader.parsed(key, |text| {
        if text == "auto" {
            return Ok(None);
        }
        // Without a table there is an error already, and nothing to compare with.
        let Ok(regions) = regions else {
            return Ok(Some(text.into()));
        };
        let mut names: Vec<&str> = Vec::new();
        for region in &regions {
            if !names.contains(&region.name.as_str()) {
                names.push(&region.name);
            }
        }
        if names.contains(&text) {
            return Ok(Some(text.into()));
        }
        let hint =
            nearest(text, names.iter().copied()).map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        Err(format!("is no region{hint}; the regions are {}", names.join(", ")))
    })
}
