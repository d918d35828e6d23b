//! Keys of the previous version, which are not an error for one version: an update should lead to a
//! warning, not to a gateway that does not start.

use super::key::Key;

struct Deprecated {
    section: &'static str,
    name: &'static str,
    now: &'static str,
}

const DEPRECATED: &[Deprecated] = &[Deprecated {
    section: "defender",
    name: "hedge",
    now: "a call to a host that answers nothing is made at another one without being told to",
}];

/// The warning about `section.name` in a file; `None` when it was no key.
pub(super) fn key(section: &str, name: &str) -> Option<String> {
    let deprecated = DEPRECATED
        .iter()
        .find(|key| key.section == section && key.name == name)?;
    Some(sentence(&format!("{section}.{name}"), deprecated))
}

/// The warning about an environment variable; `None` when it belonged to no key.
pub(super) fn variable(variable: &str) -> Option<String> {
    let deprecated = DEPRECATED.iter().find(|key| {
        let name = format!("{}{}_{}", Key::PREFIX, key.section, key.name);
        name.to_uppercase() == variable
    })?;
    Some(sentence(variable, deprecated))
}

fn sentence(what: &str, deprecated: &Deprecated) -> String {
    format!(
        "{what} is gone, means nothing any more and will be a mistake in the next version: {}; remove it",
        deprecated.now
    )
}
