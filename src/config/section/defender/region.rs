//! The hosts, and which of them may be used.

use url::Url;

use super::resolved::{REGION, REGIONS};
use crate::config::cloud::Cloud;
use crate::config::config_error::Origin;
use crate::config::raw::{Entry, Node, Raw};
use crate::config::reader::Reader;
use crate::config::suggestion::nearest;
use crate::config::value::address;

/// Each host is probed, so there is a limit, which real setups do not reach.
const MAX_REGIONS: usize = 32;

/// One upstream host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its geography: 1 to 32 lower-case letters, digits and hyphens. Several hosts may share one.
    pub name: String,
    /// Its base address: scheme, host and port.
    pub url: Url,
}

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

/// The configured hosts, or else the cloud's.
pub(super) fn read(reader: &mut Reader<'_>, cloud: Option<Cloud>) -> Option<Vec<Region>> {
    let items = reader.items(&REGIONS)?;
    if items.is_empty() {
        return cloud.map(table);
    }
    if items.len() > MAX_REGIONS {
        reader.wrong(
            &REGIONS,
            format!("holds {} hosts; allowed is 1 to {MAX_REGIONS}", items.len()),
        );
        return None;
    }
    let mut regions = Some(Vec::<Region>::new());
    for (index, item) in items.into_iter().enumerate() {
        let path = format!("{}[{index}]", REGIONS.path());
        let origin = item.origin.clone();
        let region = one(reader, &path, item, cloud);
        if let (Some(region), Some(earlier)) = (&region, &regions)
            && earlier.iter().any(|earlier| earlier.url == region.url)
        {
            reader.wrong_at(origin, path, format!("{} is listed twice", region.url));
        }
        regions = regions.zip(region).map(|(mut regions, region)| {
            regions.push(region);
            regions
        });
    }
    regions
}

fn table(cloud: Cloud) -> Vec<Region> {
    let parsed = |(name, url): &(&str, &str)| {
        let url = Url::parse(url).ok()?;
        Some(Region {
            name: (*name).into(),
            url,
        })
    };
    cloud.regions().iter().filter_map(parsed).collect()
}

fn one(reader: &mut Reader<'_>, path: &str, item: Node, cloud: Option<Cloud>) -> Option<Region> {
    let Raw::Table(entries) = item.raw else {
        let form = match item.origin {
            Origin::Variable(_) => "NAME=URL",
            _ => "{ name = \"eu\", url = \"https://…\" }",
        };
        reader.wrong_at(item.origin, path, format!("is {}; write {form}", item.raw.shape()));
        return None;
    };
    let (mut name, mut url) = (None, None);
    let mut named = (false, false);
    for Entry {
        name: field,
        origin,
        value,
    } in entries
    {
        let at = format!("{path}.{field}");
        let Raw::Text(text) = &value.raw else {
            reader.wrong_at(
                value.origin,
                at,
                format!("is {}; write a text in quotes", value.raw.shape()),
            );
            named = (named.0 || field == "name", named.1 || field == "url");
            continue;
        };
        let (origin, result) = match field.as_str() {
            "name" => {
                named.0 = true;
                (value.origin, region_name(text).map(|text| name = Some(text)))
            }
            "url" => {
                named.1 = true;
                (value.origin, region_url(text, cloud).map(|parsed| url = Some(parsed)))
            }
            _ => (origin, Err("is unknown; a region has name and url".into())),
        };
        if let Err(problem) = result {
            reader.wrong_at(origin, at, problem);
        }
    }
    for (there, field) in [(named.0, "name"), (named.1, "url")] {
        if !there {
            reader.wrong_at(
                item.origin.clone(),
                path,
                format!("has no {field}; a region has name and url"),
            );
        }
    }
    Some(Region { name: name?, url: url? })
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
pub(super) fn pin(reader: &mut Reader<'_>, regions: Option<&[Region]>) -> Option<Pin> {
    reader.parsed(&REGION, |text| {
        if text == "auto" {
            return Ok(Pin::Auto);
        }
        let pin = Pin::Only(text.into());
        // Without a table there is an error already, and nothing to compare with.
        let Some(regions) = regions else { return Ok(pin) };
        if regions.iter().any(|region| region.name == text) {
            return Ok(pin);
        }
        let mut names: Vec<&str> = Vec::new();
        for region in regions {
            if !names.contains(&region.name.as_str()) {
                names.push(&region.name);
            }
        }
        let hint =
            nearest(text, names.iter().copied()).map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        Err(format!("is no region{hint}; the regions are {}", names.join(", ")))
    })
}
