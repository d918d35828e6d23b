//! The status page: one document, no outside resources, which asks `/status` again and again.
//!
//! Its script writes text nodes only, so that no caller's name can become markup, and its content
//! security policy allows nothing but this very script, this very style, and requests to this
//! listener.

mod document;

pub(super) use document::Page;
