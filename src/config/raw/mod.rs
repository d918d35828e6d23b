//! The values as written, with their positions, before they are checked.
//!
//! There are three layers, of which the last takes precedence: the built-in defaults, the file, the
//! environment. Other programs' variables ([`super::Key::borrowed`]) are used only for keys that
//! are absent or empty in our own layers.

mod file;
mod layers;
mod node;
mod variables;

pub(super) use layers::RawConfig;
pub(super) use node::{Entry, Node, Raw};
