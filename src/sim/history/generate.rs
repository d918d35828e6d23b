//! The scan history that the simulated tenant has: the same for the same id and seed, always.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::dice::Dice;

/// An id that is always unknown, although it looks like one.
pub const UNKNOWN_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Every id that looks like a GUID is a definition with two to five scan sessions.
///
/// The public documents leave much open; each such point can be chosen here, and a client has to cope with every choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Field names.
    pub casing: Casing,
    /// Order of rows.
    pub order: Order,
    /// What happens to ids that are no definition.
    pub unknown: Unknown,
    /// How ids are compared.
    pub matching: Matching,
    /// What happens to an id that is named twice.
    pub duplicates: Duplicates,
    /// The most rows in one answer, whatever `$top` says. Default 10,000.
    pub page_size: usize,
    /// Whether an answer that is cut off says so.
    pub next_link: NextLink,
    /// The most ids in one call; above it, 400 `MaximumBatchSizeExceeded`. Default: not limited, none is documented.
    pub max_ids: Option<usize>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            casing: Casing::default(),
            order: Order::default(),
            unknown: Unknown::default(),
            matching: Matching::default(),
            duplicates: Duplicates::default(),
            page_size: 10_000,
            next_link: NextLink::default(),
            max_ids: None,
        }
    }
}

/// The documentation and the service's own `$metadata` disagree about field names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Casing {
    /// As in the documentation: `ScanDefinitionIds`, `ScannerId`, `LastScanned`, `ScanStatus`.
    #[default]
    Documented,
    /// As in `$metadata`: `scanDefinitionId`, `sessionId`, … with the scanned targets, and without `LastScanned`.
    Metadata,
}

/// Nothing is documented about the order of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// By time, so that the rows of several ids are mixed. The hardest to take apart, hence the default.
    #[default]
    NewestFirst,
    /// Grouped by id, in the order of the request.
    AsRequested,
    /// Grouped by id, ids in alphabetical order.
    ById,
}

/// What happens to ids that are no definition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// They have no rows.
    #[default]
    NoRows,
    /// One such id makes the whole call fail: 404 `ResourceNotFound`.
    NotFound,
}

/// How ids are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matching {
    /// As GUIDs; rows name them in lower case.
    #[default]
    IgnoreCase,
    /// As strings; definitions have lower-case ids.
    Exact,
}

/// What happens to an id that is named twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// Its rows come once.
    #[default]
    Once,
    /// Its rows come as often as it is named.
    Each,
}

/// Whether an answer that is cut off says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NextLink {
    /// By `@odata.nextLink`.
    #[default]
    Present,
    /// Not at all.
    Absent,
}

/// One scan session of one definition.
struct Session {
    definition: String,
    /// 0 is the newest.
    age: u64,
    ended: Timestamp,
}

/// A page of rows.
pub(super) struct Page {
    pub(super) rows: Vec<Value>,
    /// Where the next page starts, when there is more and the caller did not ask for a piece of their own.
    pub(super) next: Option<usize>,
}

impl History {
    /// The rows for `ids`; `Err` holds the unknown id that makes the call fail.
    pub(super) fn page(
        &self,
        (seed, scans): (u64, u64),
        ids: &[String],
        top: Option<usize>,
        skip: usize,
    ) -> Result<Page, String> {
        let mut sessions = self.sessions(seed, scans, ids)?;
        match self.order {
            Order::NewestFirst => sessions.sort_by(|a, b| (b.ended, &a.definition).cmp(&(a.ended, &b.definition))),
            Order::ById => sessions.sort_by(|a, b| (&a.definition, a.age).cmp(&(&b.definition, b.age))),
            Order::AsRequested => {}
        }
        let left = sessions.len().saturating_sub(skip);
        let wanted = top.unwrap_or(usize::MAX).min(left);
        let given = wanted.min(self.page_size);
        let cut_off = given < wanted && self.next_link == NextLink::Present;
        Ok(Page {
            rows: sessions.iter().skip(skip).take(given).map(|session| self.row(seed, session)).collect(),
            next: cut_off.then_some(skip + given),
        })
    }

    fn sessions(&self, seed: u64, scans: u64, ids: &[String]) -> Result<Vec<Session>, String> {
        let mut seen = std::collections::BTreeSet::new();
        let mut sessions = Vec::new();
        for asked in ids {
            let definition = match self.matching {
                Matching::IgnoreCase => asked.to_ascii_lowercase(),
                Matching::Exact => asked.clone(),
            };
            if !is_definition(&definition) {
                if self.unknown == Unknown::NotFound {
                    return Err(asked.clone());
                }
                continue;
            }
            if !seen.insert(definition.clone()) && self.duplicates == Duplicates::Once {
                continue;
            }
            let mut dice = Dice::for_text(seed, &definition);
            let newest = anchor() - dice.upto(INTERVAL) + INTERVAL * u32::try_from(scans).unwrap_or(u32::MAX);
            sessions.extend((0..2 + dice.below(4) + scans).map(|age| Session {
                definition: definition.clone(),
                age,
                ended: newest - INTERVAL * u32::try_from(age).unwrap_or(u32::MAX),
            }));
        }
        Ok(sessions)
    }

    fn row(&self, seed: u64, session: &Session) -> Value {
        let mut dice = Dice::for_text(seed, &session.definition);
        let (scanner, org) = (dice.hex(40), dice.guid());
        // Dice of its own, by the time of the session: a row stays as it is when newer ones appear.
        let mut dice = Dice::for_text(dice.next(), &session.ended.to_string());
        let targets = 1 + dice.below(3);
        let outcomes: Vec<bool> = (0..targets).map(|_| dice.hits(0.8)).collect();
        let good = outcomes.iter().filter(|ok| **ok).count();
        match self.casing {
            Casing::Documented => json!({
                "ScanDefinitionIds": session.definition,
                "ScannerId": scanner,
                "LastScanned": format!("{}{:07}Z", session.ended.strftime("%Y-%m-%dT%H:%M:%S."), dice.below(10_000_000)),
                "ScanStatus": status(good, outcomes.len(), "Partial Success"),
            }),
            Casing::Metadata => json!({
                "scanDefinitionId": session.definition,
                "sessionId": dice.guid(),
                "scannerId": scanner,
                "scanStatus": status(good, outcomes.len(), "PartialSuccess"),
                "orgId": org,
                "numberOfSuccessfullyScannedTargets": good,
                "numberOfTargets": outcomes.len(),
                "generalErrorMessage": null,
                "scannedTargets": outcomes.iter().map(|ok| target(&mut dice, *ok)).collect::<Vec<_>>(),
            }),
        }
    }
}

/// How far apart the sessions of a definition are: the documented default interval.
const INTERVAL: Duration = Duration::from_secs(4 * 60 * 60);

/// When the newest sessions ended, 2026-11-01T00:00:00Z: fixed, so that two runs give the same bytes.
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

fn target(dice: &mut Dice, ok: bool) -> Value {
    let (a, b) = (dice.below(250) + 1, dice.below(250) + 1);
    json!({
        "ip": format!("10.0.{a}.{b}"),
        "hostname": format!("switch-{a}-{b}"),
        "scannedDeviceDescription": if ok { "Network switch" } else { "" },
        "errorMessage": if ok { Value::Null } else { Value::from("SNMP request timed out") },
        "scanStatus": if ok { "Success" } else { "Failure" },
        "scanDuration": format!("00:00:{:02}.{:07}", dice.below(60), dice.below(10_000_000)),
    })
}

/// Whether `id` looks like a lower-case GUID and is not [`UNKNOWN_ID`].
fn is_definition(id: &str) -> bool {
    let good = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    id.len() == 36 && id.bytes().enumerate().all(good) && id != UNKNOWN_ID
}

#[cfg(test)]
mod tests;
