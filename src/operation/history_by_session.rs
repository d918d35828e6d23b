//! The scan history of sessions.

use super::declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};

pub(super) const DECLARATION: Declaration = Declaration {
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
