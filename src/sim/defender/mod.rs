//! A region's host: the one operation, as strict as its documentation.

mod document;
mod endpoint;
mod faulty;
mod refusal;
mod request_parts;

pub(super) use endpoint::Region;
