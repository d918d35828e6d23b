//! A region's host: the one operation, as strict as its documentation.

mod document;
mod endpoint;
mod faulty;
mod request_parts;
mod refusal;

pub(super) use endpoint::Region;
