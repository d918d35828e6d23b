//! The operations: what callers may ask, and what the upstream is asked. Nothing else ever leaves.
//!
//! Each operation is declared once, below. Routing, the request to the upstream, the key, how
//! answers are kept and merged, metric labels, the `OpenAPI` document, the table in
//! `deploy/api.md`, the simulator and the tests that run over every operation follow from the
//! declaration. A new operation is a declaration and its line in the list.
//!
//! Pure: no I/O, no clock. Invariant: the path of a request to the upstream is written from a
//! declaration, never copied from a caller.

mod declaration;
pub mod endpoint;
#[cfg(test)]
mod tests;

pub use declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};
pub use endpoint::{Endpoint, EntityId, Target, route};

/// Declares the operations: the name in code, and the declaration.
macro_rules! operations {
    ($($name:ident: $declaration:ident,)*) => {
        /// An operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $(
                #[doc = concat!("See `", stringify!($declaration), "`.")]
                $name,
            )*
        }

        impl Operation {
            /// All of them, in the order of their discriminants.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// What there is to know about it.
            pub const fn declaration(self) -> &'static Declaration {
                match self {
                    $(Self::$name => &$declaration,)*
                }
            }
        }
    };
}

operations! {
    HistoryByDefinition: HISTORY_BY_DEFINITION,
    HistoryBySession: HISTORY_BY_SESSION,
    Definitions: DEFINITIONS,
    Definition: DEFINITION,
    Agents: AGENTS,
    Agent: AGENT,
}

/// The scan history of definitions.
const HISTORY_BY_DEFINITION: Declaration = Declaration {
    name: "history_by_definition",
    operation_id: "scanHistory",
    summary: "Scan history of a list of scan definitions",
    path: "/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId",
    input: Input::Ids {
        member: "ScanDefinitionIds",
        example: "4ad8d463-6b3f-4894-b20b-ee9a0b5a4d6a",
    },
    query: Query::Paging,
    shape: Shape::List,
    kept: Kept::ById {
        // The documentation, its plain reading, and the service's own metadata disagree about the
        // name.
        names: ["ScanDefinitionIds", "ScanDefinitionId", "scanDefinitionId"],
    },
    // A definition that runs gets new sessions.
    lifetime: Lifetime::Ttl,
    secrets: &[],
    example: r#"{
        "scanDefinitionId": "4ad8d463-6b3f-4894-b20b-ee9a0b5a4d6a",
        "sessionId": "01decc497f4b4ec49a5fc4e12597f8c8",
        "scanStatus": "Success",
        "numberOfSuccessfullyScannedTargets": 1,
        "numberOfTargets": 1
    }"#,
};

/// The scan history of sessions.
const HISTORY_BY_SESSION: Declaration = Declaration {
    name: "history_by_session",
    operation_id: "scanHistoryBySession",
    summary: "Scan history of a list of scan sessions",
    path: "/DeviceAuthenticatedScanDefinitions/GetScanHistoryBySessionId",
    input: Input::Ids {
        member: "SessionIds",
        example: "01decc497f4b4ec49a5fc4e12597f8c8",
    },
    query: Query::Paging,
    shape: Shape::List,
    kept: Kept::ById {
        names: ["SessionIds", "SessionId", "sessionId"],
    },
    lifetime: Lifetime::Finished,
    secrets: &[],
    example: r#"{
        "orgId": "7b6c2f5e-3f1d-4c07-9c4e-2c1f0f6f6a11",
        "ScanDefinitionIds": "4ad8d463-6b3f-4894-b20b-ee9a0b5a4d6a",
        "SessionIds": "01decc497f4b4ec49a5fc4e12597f8c8",
        "NumberOfSuccessfullyScannedTargets": 1,
        "NumberOfTargets": 1,
        "ScanStatus": "Success",
        "LastScanned": "2026-03-01T04:05:06.1234567Z",
        "ListScannedTargets": [{
            "Ip": "10.0.0.7",
            "Hostname": "switch-7",
            "ScannedDeviceDescription": "Network switch",
            "ErrorMessage": null,
            "ScanStatus": "Success",
            "ScanDuration": "00:08:30"
        }]
    }"#,
};

/// Null when read live; the documented example has an object with a user's name and password, or an
/// SNMP community, in it.
const SECRETS: &[&str] = &["scanAuthenticationParams"];

const DEFINITION_EXAMPLE: &str = r#"{
    "id": "4ad8d463-6b3f-4894-b20b-ee9a0b5a4d6a",
    "orgId": "7b6c2f5e-3f1d-4c07-9c4e-2c1f0f6f6a11",
    "scanType": "Network",
    "scanName": "Switches of building 7",
    "createdBy": "admin@example.com",
    "isActive": true,
    "target": "10.0.0.7,10.0.0.8",
    "intervalInHours": 4,
    "targetType": "Ip",
    "scanAuthenticationParams": null,
    "scannerAgent": {
        "id": "7b6c2f5e-3f1d-4c07-9c4e-2c1f0f6f6a11_7f1c3609a3ff40e4a0d3f3d1d9a2c0b16e6c8d5a",
        "machineId": "7f1c3609a3ff40e4a0d3f3d1d9a2c0b16e6c8d5a",
        "machineName": "scanner-1",
        "lastSeen": "2026-03-01T04:05:06.1234567Z"
    },
    "latestScan": {"status": "Success", "failureReason": null, "executionDateTime": "2026-03-01T04:05:06.1234567Z"}
}"#;

const DEFINITIONS: Declaration = Declaration {
    name: "definitions",
    operation_id: "listScanDefinitions",
    summary: "All scan definitions",
    path: "/DeviceAuthenticatedScanDefinitions",
    input: Input::Path,
    query: Query::Any,
    shape: Shape::List,
    kept: Kept::Whole,
    lifetime: Lifetime::Ttl,
    secrets: SECRETS,
    example: DEFINITION_EXAMPLE,
};

const DEFINITION: Declaration = Declaration {
    name: "definition",
    operation_id: "scanDefinition",
    summary: "One scan definition",
    path: "/DeviceAuthenticatedScanDefinitions/{id}",
    shape: Shape::Entity,
    kept: Kept::InList(Operation::Definitions),
    ..DEFINITIONS
};

const AGENT_EXAMPLE: &str = r#"{
    "id": "7b6c2f5e-3f1d-4c07-9c4e-2c1f0f6f6a11_7f1c3609a3ff40e4a0d3f3d1d9a2c0b16e6c8d5a",
    "machineId": "7f1c3609a3ff40e4a0d3f3d1d9a2c0b16e6c8d5a",
    "lastSeen": "2026-03-01T04:05:06.1234567Z",
    "computerDnsName": "scanner-1.example.com",
    "assignedApplicationId": "1b5c4f0a-2c3d-4e5f-8a9b-0c1d2e3f4a5b",
    "scannerSoftwareVersion": "7.1.1",
    "lastCommandExecutionTimestamp": "2026-03-01T04:05:06.1234567Z",
    "mdeClientVersion": "10.8295.22621.1195"
}"#;

const AGENTS: Declaration = Declaration {
    name: "agents",
    operation_id: "listScanAgents",
    summary: "All scanners",
    path: "/DeviceAuthenticatedScanAgents",
    input: Input::Path,
    query: Query::Any,
    shape: Shape::List,
    kept: Kept::Whole,
    lifetime: Lifetime::Ttl,
    secrets: &[],
    example: AGENT_EXAMPLE,
};

const AGENT: Declaration = Declaration {
    name: "agent",
    operation_id: "scanAgent",
    summary: "One scanner",
    path: "/DeviceAuthenticatedScanAgents/{id}",
    shape: Shape::Entity,
    kept: Kept::InList(Operation::Agents),
    ..AGENTS
};
