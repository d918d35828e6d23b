//! `[definitions]`: how scan definitions are passed on.

use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::Reader;

static PASS_AUTHENTICATION_PARAMS: Key = Key::new(
    "definitions",
    "pass_authentication_params",
    Kind::Flag,
    DefaultValue::Flag(false),
    "Whether callers get `scanAuthenticationParams` of definitions, which may hold the credentials of scanners, as the upstream gives it. \
     `false`: it is replaced by null. `true`: an answer in which it is not null is kept nowhere.",
)
.live();

pub(super) static KEYS: &[&Key] = &[&PASS_AUTHENTICATION_PARAMS];

/// How scan definitions are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definitions {
    /// Whether credentials of scanners are passed on.
    pub pass_authentication_params: bool,
}

impl Definitions {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            pass_authentication_params: reader.flag(&PASS_AUTHENTICATION_PARAMS)?,
        })
    }
}
