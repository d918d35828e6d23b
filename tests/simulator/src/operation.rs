//! The operations that are answered, and which path means which. This is read from the documentation
//! of the service and not from the gateway, so that a mistake there is not repeated here.

use http::Method;
use percent_encoding::percent_decode_str;

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    HistoryByDefinition,
    HistoryBySession,
    Definitions,
    Definition,
    Agents,
    Agent,
}

impl Operation {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] = [
        Self::HistoryByDefinition,
        Self::HistoryBySession,
        Self::Definitions,
        Self::Definition,
        Self::Agents,
        Self::Agent,
    ];

    /// The method that it is called with.
    pub fn method(self) -> Method {
        match self {
            Self::HistoryByDefinition | Self::HistoryBySession => Method::POST,
            Self::Definitions | Self::Definition | Self::Agents | Self::Agent => Method::GET,
        }
    }
}

/// The operation behind a path, with or without the API's version, and the id of the entity that it
/// is about; `None` for every other path.
pub(crate) fn route(path: &str) -> Option<(Operation, Option<String>)> {
    let rest = path.strip_prefix("/api/")?;
    let rest = rest.strip_prefix("v1.0/").unwrap_or(rest);
    let (collection, below) = rest.split_once('/').map_or((rest, None), |(one, two)| (one, Some(two)));
    let (list, entity) = match collection {
        "DeviceAuthenticatedScanDefinitions" => (Operation::Definitions, Operation::Definition),
        "DeviceAuthenticatedScanAgents" => (Operation::Agents, Operation::Agent),
        _ => return None,
    };
    Some(match (list, below) {
        (_, None) => (list, None),
        (Operation::Definitions, Some("GetScanHistoryByScanDefinitionId")) => (Operation::HistoryByDefinition, None),
        (Operation::Definitions, Some("GetScanHistoryBySessionId")) => (Operation::HistoryBySession, None),
        // Every id has a digit, and the names of other actions have none.
        (_, Some(id)) if id.contains(|c: char| c.is_ascii_digit()) && !id.contains('/') => (
            entity,
            Some(percent_decode_str(id).decode_utf8().ok()?.to_ascii_lowercase()),
        ),
        _ => return None,
    })
}
