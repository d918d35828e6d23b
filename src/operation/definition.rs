//! One scan definition.

use super::Operation;
use super::declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};
use super::definitions::{EXAMPLE, SECRETS};

pub(super) const DECLARATION: Declaration = Declaration {
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
