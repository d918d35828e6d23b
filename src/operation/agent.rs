//! One scanner.

use super::Operation;
use super::agents::EXAMPLE;
use super::declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};

pub(super) const DECLARATION: Declaration = Declaration {
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
