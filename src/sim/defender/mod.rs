//! A region's host: the operations, as strict as their documentation.

mod document;
mod endpoint;
mod faulty;
mod refusal;
mod request_parts;

pub(super) use endpoint::Region;
