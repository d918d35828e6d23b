//! The scan history of definitions.

use super::declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};

pub(super) const DECLARATION: Declaration = Declaration {
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
