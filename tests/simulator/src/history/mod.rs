//! The simulated tenant: definitions, scanners and their history, always the same for the same id
//! and seed.

mod entities;
mod rows;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Deserialize;

use crate::span;

pub(super) use entities::Kind;
pub(super) use rows::By;

/// An id that is always unknown, although it has the form of a GUID.
pub const UNKNOWN_ID: &str = "00000000-0000-0000-0000-000000000000";

/// Every id with the form of a GUID is a definition with two to five scan sessions, whether it is
/// listed or not.
///
/// The public documents leave much open; each such point can be chosen here, and a client has to
/// cope with every choice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// Field names.
    pub casing: Casing,
    /// Order of rows.
    pub order: Order,
    /// How ids that are no definition are treated.
    pub unknown: Unknown,
    /// How ids are compared.
    pub matching: Matching,
    /// How an id that is named twice is treated.
    pub duplicates: Duplicates,
    /// The most rows in one answer, whatever `$top` says. Default 10,000.
    pub page_size: usize,
    /// Whether an answer that is cut off says so, and how.
    pub next_link: NextLink,
    /// How answers are written.
    pub layout: Layout,
    /// The members around the rows.
    pub envelope: Envelope,
    /// The age of an answer, sent as `Age`, as if a cache stood in front of the service. Default:
    /// there is none.
    #[serde(deserialize_with = "span::optional")]
    pub age: Option<Duration>,
    /// The most ids in one call; above it, 400 `MaximumBatchSizeExceeded`. Default: not limited,
    /// none is documented.
    pub max_ids: Option<usize>,
    /// The number of listed definitions. Default 55, as in the largest tenant that was described.
    pub definitions: usize,
    /// The number of scanners. Default 7, as in the same tenant.
    pub agents: usize,
    /// How a single entity is answered.
    pub entity: EntityForm,
    /// Whether the newest session of each definition is still running. Default: all have ended.
    pub running: bool,
    /// How `$top` is treated in history by session.
    pub session_top: SessionTop,
    /// Whether the fractions of times in rows end without zeros, as some serializers write them.
    /// Default: they have seven digits, as documented.
    pub trimmed_times: bool,
    /// Whether `scanAuthenticationParams` of definitions is an object, as in the documented
    /// example. Default: it is null, as observed.
    pub secrets: bool,
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
            layout: Layout::default(),
            envelope: Envelope::default(),
            age: None,
            max_ids: None,
            definitions: 55,
            agents: 7,
            entity: EntityForm::default(),
            running: false,
            session_top: SessionTop::default(),
            trimmed_times: false,
            secrets: false,
        }
    }
}

/// The documentation and the service's own `$metadata` disagree about field names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Casing {
    /// As in the documentation: `ScanDefinitionIds`, `ScannerId`, `LastScanned`, `ScanStatus`.
    Documented,
    /// As in `$metadata`: `scanDefinitionId`, `sessionId`, … with the scanned targets, and without
    /// `LastScanned`. The default, because the live service was observed to use camelCase.
    #[default]
    Metadata,
}

/// The order of rows, which is not documented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// By time, so that the rows of several ids are mixed. It is the hardest to split, and
    /// therefore the default.
    #[default]
    NewestFirst,
    /// Grouped by id, in the order of the request.
    AsRequested,
    /// Grouped by id, ids in alphabetical order.
    ById,
}

/// How ids that are no definition are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// They have no rows.
    #[default]
    NoRows,
    /// One such id makes the whole call fail: 404 `ResourceNotFound`.
    NotFound,
}

/// How ids are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Matching {
    /// As GUIDs; rows name them in lower case.
    #[default]
    IgnoreCase,
    /// As strings; definitions have lower-case ids.
    Exact,
    /// As GUIDs in every form that .NET reads, with the prefix of a URN too; rows name them in
    /// lower case with dashes.
    Dotnet,
}

/// How `$top` is treated in history by session, for which it is not documented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionTop {
    /// As in history by definition.
    #[default]
    Taken,
    /// With 400 `ODataError`.
    Refused,
}

/// How an id that is named twice is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Duplicates {
    /// Its rows come once.
    #[default]
    Once,
    /// Its rows come as often as it is named.
    Each,
}

/// Whether an answer that is cut off says so, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextLink {
    /// By `@odata.nextLink`.
    #[default]
    Present,
    /// Not at all.
    Absent,
    /// By `@odata.nextLink` to the base host of the service, with `$skiptoken` and the other
    /// options of the request.
    SkipToken,
    /// By `@odata.nextlink` to an older name of the host, with undocumented options.
    Custom,
}

/// How answers are written. All are the same JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// On one line, without space.
    #[default]
    Compact,
    /// On one line, with a space after each comma and colon.
    Spaced,
    /// On many lines, indented.
    Pretty,
    /// The same with carriage returns.
    Crlf,
}

/// The members around the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Envelope {
    /// `@odata.context`, then the rows.
    #[default]
    Documented,
    /// The rows, then `@odata.context`.
    Reversed,
    /// Undocumented members around the rows.
    Extended,
}

/// How a single entity is answered: nothing is documented about definitions, and an example about
/// scanners contradicts `OData`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntityForm {
    /// As `OData` has it: its members beside the context.
    #[default]
    Bare,
    /// As in the documented example: in a `value` of one.
    Wrapped,
}
