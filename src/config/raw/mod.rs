//! What was written, with its position, before anybody asks whether it makes sense.
//!
//! Three layers, the later one wins: the built-in defaults, the file, the environment. Other people's variables
//! ([`super::Key::borrowed`]) fill in only what our own layers leave out or empty.

mod file;
mod layers;
mod node;
mod variables;

pub(super) use layers::RawConfig;
pub(super) use node::{Entry, Node, Raw};
