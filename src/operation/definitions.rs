//! The list of scan definitions, and one of them.

use super::Operation;
use super::declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};

/// Null when read live; the documented example has an object with a user's name and password, or an
/// SNMP community, in it.
const SECRETS: &[&str] = &["scanAuthenticationParams"];

const EXAMPLE: &str = r#"{
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

pub(super) const LIST: Declaration = Declaration {
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
    example: EXAMPLE,
};

pub(super) const ONE: Declaration = Declaration {
    name: "definition",
    operation_id: "scanDefinition",
    summary: "One scan definition",
    path: "/DeviceAuthenticatedScanDefinitions/{id}",
    input: Input::Path,
    query: Query::Any,
    shape: Shape::Entity,
    kept: Kept::InList(Operation::Definitions),
    lifetime: Lifetime::Ttl,
    secrets: SECRETS,
    example: EXAMPLE,
};
