//! `[definitions]`: how scan definitions are passed on.

use super::declare::{keys, section};
use crate::config::key::Key;
use crate::config::reader::Reader;

section! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Definitions: "definitions", "what passes of scan definitions";

    /// Whether callers get `scanAuthenticationParams` of definitions, which may hold the
    /// credentials of scanners, as the upstream gives it. `false`: it is replaced by null. `true`:
    /// an answer in which it is not null is kept nowhere.
    pass_authentication_params: bool = Key::flag(false).live() => Reader::flag;
}
