//! The list of scanners, and one of them.

use super::Operation;
use super::declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};

const EXAMPLE: &str = r#"{
    "id": "7b6c2f5e-3f1d-4c07-9c4e-2c1f0f6f6a11_7f1c3609a3ff40e4a0d3f3d1d9a2c0b16e6c8d5a",
    "machineId": "7f1c3609a3ff40e4a0d3f3d1d9a2c0b16e6c8d5a",
    "lastSeen": "2026-03-01T04:05:06.1234567Z",
    "computerDnsName": "scanner-1.example.com",
    "assignedApplicationId": "1b5c4f0a-2c3d-4e5f-8a9b-0c1d2e3f4a5b",
    "scannerSoftwareVersion": "7.1.1",
    "lastCommandExecutionTimestamp": "2026-03-01T04:05:06.1234567Z",
    "mdeClientVersion": "10.8295.22621.1195"
}"#;

pub(super) const LIST: Declaration = Declaration {
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
    example: EXAMPLE,
};

pub(super) const ONE: Declaration = Declaration {
    name: "agent",
    operation_id: "scanAgent",
    summary: "One scanner",
    path: "/DeviceAuthenticatedScanAgents/{id}",
    input: Input::Path,
    query: Query::Any,
    shape: Shape::Entity,
    kept: Kept::InList(Operation::Agents),
    lifetime: Lifetime::Ttl,
    secrets: &[],
    example: EXAMPLE,
};
