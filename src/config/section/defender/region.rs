//! The hosts, and which of them may be used.

use url::Url;

use super::key;
use crate::config::cloud::Cloud;
use crate::config::config_error::Origin;
use crate::config::key::Key;
use crate::config::raw::{Node, Raw};
use crate::config::reader::{Read, Reader, Recorded};
use crate::config::suggestion::nearest;
use crate::config::value::address;
use crate::region::Candidate;

/// Each host is probed, so there is a limit, which real setups do not reach.
const MAX_REGIONS: usize = 32;

/// Which hosts may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// All of them; the nearest is preferred.
    Auto,
    /// Only those of this name.
    Only(String),
}

impl Pin {
    /// Whether a host with this name may be used.
    pub fn allows(&self, name: &str) -> bool {
        match self {
            Self::Auto => true,
            Self::Only(only) => only == name,
        }
    }
}

/// The configured hosts, or else the cloud's. One invalid host makes the list invalid, but the
/// others are still checked.
pub(super) fn read(reader: &mut Reader<'_>, key: &'static Key) -> Read<Vec<Candidate>> {
    let cloud = super::cloud(reader);
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
        let Node { raw, origin } = entry.value;
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
pub(super) fn pin(reader: &mut Reader<'_>, key: &'static Key) -> Read<Pin> {
    let regions = reader.field(&key::regions, read);
    reader.parsed(key, |text| {
        if text == "auto" {
            return Ok(Pin::Auto);
        }
        // Without a table there is an error already, and nothing to compare with.
        let Ok(regions) = regions else {
            return Ok(Pin::Only(text.into()));
        };
        let mut names: Vec<&str> = Vec::new();
        for region in &regions {
            if !names.contains(&region.name.as_str()) {
                names.push(&region.name);
            }
        }
        if names.contains(&text) {
            return Ok(Pin::Only(text.into()));
        }
        let hint =
            nearest(text, names.iter().copied()).map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        Err(format!("is no region{hint}; the regions are {}", names.join(", ")))
    })
}
