//! Generated rows, and the GUIDs that they are asked by, read as a service in .NET does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::history::{Casing, Duplicates, History, Matching, NextLink, Order, UNKNOWN_ID, Unknown};
use crate::rng::Rng;

/// What rows are requested by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Definition,
    Session,
}

/// One scan session of one definition.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) definition: String,
    /// 0 is the newest.
    age: u32,
    pub(super) ended: Timestamp,
}

impl Session {
    /// Its id: 32 digits.
    fn id(&self, seed: u64) -> String {
        Rng::for_text(seed, &format!("{}/{}", self.definition, self.ended)).hex(32)
    }
}

/// A page of rows.
pub(crate) struct Page {
    pub(crate) rows: Vec<Value>,
    /// Where the next page starts, if there are more rows and the caller did not ask for a part.
    pub(crate) next: Option<usize>,
}

impl History {
    /// The rows for `ids`; `Err` contains the unknown id that makes the call fail.
    pub(crate) fn page(
        &self,
        by: By,
        (seed, scans): (u64, u32),
        ids: &[String],
        top: Option<usize>,
        skip: usize,
    ) -> Result<Page, String> {
        let mut sessions = self.sessions(by, seed, scans, ids)?;
        match self.order {
            Order::NewestFirst => sessions.sort_by(|a, b| (b.ended, &a.definition).cmp(&(a.ended, &b.definition))),
            Order::ById => sessions.sort_by(|a, b| (&a.definition, a.age).cmp(&(&b.definition, b.age))),
            Order::AsRequested => {}
        }
        let left = sessions.len().saturating_sub(skip);
        let wanted = top.unwrap_or(usize::MAX).min(left);
        let given = wanted.min(self.page_size);
        let cut_off = given < wanted && self.next_link != NextLink::Absent;
        Ok(Page {
            rows: sessions
                .iter()
                .skip(skip)
                .take(given)
                .map(|session| self.row(by, seed, session))
                .collect(),
            next: cut_off.then_some(skip + given),
        })
    }

    /// The sessions of all `ids`; `Err` contains the unknown id that makes the call fail.
    fn sessions(&self, by: By, seed: u64, scans: u32, ids: &[String]) -> Result<Vec<Session>, String> {
        let listed = match by {
            By::Definition => Vec::new(),
            By::Session => self.definition_ids(seed),
        };
        let listed = listed.iter().flat_map(|id| of_definition(seed, scans, id));
        let listed: BTreeMap<_, _> = listed.map(|session| (session.id(seed), session)).collect();
        let mut taken = BTreeSet::new();
        let mut sessions = Vec::new();
        for asked in ids {
            let id = self.normalized(by, asked);
            let found: Vec<_> = match by {
                By::Definition if is_definition(&id) => of_definition(seed, scans, &id).collect(),
                By::Definition => Vec::new(),
                By::Session => listed.get(&id).cloned().into_iter().collect(),
            };
            if found.is_empty() && self.unknown == Unknown::NotFound {
                return Err(asked.clone());
            }
            if taken.insert(id) || self.duplicates == Duplicates::Each {
                sessions.extend(found);
            }
        }
        Ok(sessions)
    }

    /// The id as rows name it, if the service recognizes it in this spelling.
    fn normalized(&self, by: By, asked: &str) -> String {
        match (self.matching, by) {
            (Matching::IgnoreCase, _) => asked.to_ascii_lowercase(),
            (Matching::Exact, _) => asked.to_owned(),
            (Matching::Dotnet, By::Definition) => read_guid(asked).unwrap_or_else(|| asked.to_owned()),
            (Matching::Dotnet, By::Session) => {
                read_guid(asked).map_or_else(|| asked.to_owned(), |id| id.replace('-', ""))
            }
        }
    }

    /// A time as rows have it.
    fn time(&self, at: Timestamp) -> String {
        let documented = time(at);
        if !self.trimmed_times {
            return documented;
        }
        let trimmed = documented.trim_end_matches('Z').trim_end_matches('0');
        format!("{}Z", trimmed.trim_end_matches('.'))
    }

    fn row(&self, by: By, seed: u64, session: &Session) -> Value {
        let mut rng = Rng::for_text(seed, &session.definition);
        let (scanner, org) = (rng.hex(40), rng.guid());
        // A generator of its own, seeded by the time of the session, so that a row stays as it is
        // when newer ones appear.
        let mut rng = Rng::for_text(rng.next(), &session.ended.to_string());
        let targets = 1 + rng.below(3);
        let outcomes: Vec<bool> = (0..targets).map(|_| rng.hits(0.8)).collect();
        let good = outcomes.iter().filter(|ok| **ok).count();
        let is_running = self.running && session.age == 0;
        let status = |partial| {
            if is_running {
                "InProgress"
            } else {
                status(good, outcomes.len(), partial)
            }
        };
        match self.casing {
            Casing::Documented if by == By::Session => json!({
                "orgId": org,
                "ScanDefinitionIds": session.definition,
                "SessionIds": session.id(seed),
                "NumberOfSuccessfullyScannedTargets": good,
                "NumberOfTargets": outcomes.len(),
                "ScanStatus": status("Partial Success"),
                "LastScanned": self.time(session.ended),
                "ListScannedTargets": outcomes.iter().map(|ok| documented(&target(&mut rng, *ok))).collect::<Vec<_>>(),
            }),
            Casing::Documented => json!({
                "ScanDefinitionIds": session.definition,
                "ScannerId": scanner,
                "LastScanned": self.time(session.ended),
                "ScanStatus": status("Partial Success"),
            }),
            Casing::Metadata => json!({
                "scanDefinitionId": session.definition,
                "sessionId": session.id(seed),
                "scannerId": scanner,
                "scanStatus": status("PartialSuccess"),
                "orgId": org,
                "numberOfSuccessfullyScannedTargets": good,
                "numberOfTargets": outcomes.len(),
                "generalErrorMessage": null,
                "scannedTargets": outcomes.iter().map(|ok| target(&mut rng, *ok)).collect::<Vec<_>>(),
            }),
        }
    }
}

/// The sessions of a definition, the newest first.
pub(super) fn of_definition(seed: u64, scans: u32, definition: &str) -> impl Iterator<Item = Session> {
    let mut rng = Rng::for_text(seed, definition);
    let newest = anchor() - TICK * u32::try_from(rng.below(TICKS)).unwrap_or(0) + INTERVAL * scans;
    let count = 2 + u32::try_from(rng.below(4)).unwrap_or(0) + scans;
    let definition = definition.to_owned();
    (0..count).map(move |age| Session {
        definition: definition.clone(),
        age,
        ended: newest - INTERVAL * age,
    })
}

/// A time as the service writes it.
pub(super) fn time(at: Timestamp) -> String {
    format!(
        "{}.{:07}Z",
        at.strftime("%Y-%m-%dT%H:%M:%S"),
        at.subsec_nanosecond() / 100
    )
}

/// The members of a target with the first letter in capitals.
fn documented(target: &Value) -> Value {
    let members = target.as_object().into_iter().flatten();
    let renamed = members.map(|(name, value)| (format!("{}{}", name[..1].to_uppercase(), &name[1..]), value.clone()));
    Value::Object(renamed.collect())
}

/// The time between the sessions of a definition: the documented default interval.
const INTERVAL: Duration = Duration::from_hours(4);

/// The resolution of the service's times: seven digits after the second.
const TICK: Duration = Duration::from_nanos(100);

/// The largest distance between the newest sessions of two definitions, in ticks: about five
/// minutes, so that their rows mix.
const TICKS: u64 = 3_000_000_000;

/// When the newest sessions ended, 2026-11-01T00:00:00Z. It is fixed, so that two runs give the
/// same bytes.
fn anchor() -> Timestamp {
    Timestamp::constant(1_793_491_200, 0)
}

fn status(good: usize, all: usize, partial: &'static str) -> &'static str {
    match good {
        0 => "Failure",
        _ if good == all => "Success",
        _ => partial,
    }
}

fn target(rng: &mut Rng, ok: bool) -> Value {
    let (a, b) = (rng.below(250) + 1, rng.below(250) + 1);
    json!({
        "ip": format!("10.0.{a}.{b}"),
        "hostname": format!("switch-{a}-{b}"),
        "scannedDeviceDescription": if ok { "Network switch" } else { "" },
        "errorMessage": if ok { Value::Null } else { Value::from("SNMP request timed out") },
        "scanStatus": if ok { "Success" } else { "Failure" },
        "scanDuration": format!("00:00:{:02}.{:07}", rng.below(60), rng.below(10_000_000)),
    })
}

/// Whether `id` looks like a lower-case GUID and is not [`UNKNOWN_ID`].
pub(super) fn is_definition(id: &str) -> bool {
    let good = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    id.len() == 36 && id.bytes().enumerate().all(good) && id != UNKNOWN_ID
}

/// The usual form, in lower case with dashes, of a GUID in one of the forms `N`, `D`, `B`, `P` and
/// `X`, or after `urn:uuid:`; `None` when the text is no GUID.
fn read_guid(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_prefix("urn:uuid:").unwrap_or(&text);
    let digits = match text.as_bytes() {
        [b'{', b'0', b'x', ..] => from_parts(text)?,
        [b'{', .., b'}'] | [b'(', .., b')'] => dashed(&text[1..text.len() - 1])?,
        _ if text.len() == 32 => text.to_owned(),
        _ => dashed(text)?,
    };
    let is_whole = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_whole.then(|| {
        let part = |from: usize, to: usize| &digits[from..to];
        [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
    })
}

fn dashed(text: &str) -> Option<String> {
    let lengths: Vec<_> = text.split('-').map(str::len).collect();
    (lengths == [8, 4, 4, 4, 12]).then(|| text.replace('-', ""))
}

/// `{0x60c4aa2d,0x7f35,0x4b8f,{0x9e,0xa,…}}`
fn from_parts(text: &str) -> Option<String> {
    let text: String = text.split_whitespace().collect();
    let (head, bytes) = text.strip_prefix('{')?.strip_suffix("}}")?.split_once(",{")?;
    let numbers = head.split(',').chain(bytes.split(','));
    let widths = [8, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2];
    let numbers: Vec<_> = numbers.collect();
    if numbers.len() != widths.len() {
        return None;
    }
    let written = numbers.iter().zip(widths).map(|(number, width)| {
        let value = u32::from_str_radix(number.strip_prefix("0x")?, 16).ok()?;
        Some(format!("{value:0width$x}")).filter(|digits| digits.len() == width)
    });
    written.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_nothing_else() {
        let guid = "60c4aa2d-7f35-4b8f-9e0a-00000000000b";
        for text in [
            guid,
            "60C4AA2D7F354B8F9E0A00000000000B",
            " {60c4aa2d-7f35-4b8f-9e0a-00000000000b}",
            "(60c4aa2d-7f35-4b8f-9e0a-00000000000b)",
            "urn:uuid:60c4aa2d-7f35-4b8f-9e0a-00000000000b",
            "{0x60c4aa2d,0x7f35,0x4b8f,{0x9e,0xa,0x00,0x0,0x00,0x00,0x00,0xb}}",
        ] {
            assert_eq!(read_guid(text).as_deref(), Some(guid), "{text}");
        }
        for text in [
            "",
            "x",
            "{}",
            "60c4aa2d-7f35-4b8f-9e0a-00000000000",
            "{0x1}",
            "60c4aa2d-7f354b8f-9e0a-00000000000b-",
        ] {
            assert_eq!(read_guid(text), None, "{text}");
        }
    }
}
