//! The description of the data listener, for people and generators.

/// `OpenAPI` 3.1, as `defender-gateway openapi` prints it and the admin listener serves it.
pub const OPENAPI: &str = include_str!("openapi.json");
