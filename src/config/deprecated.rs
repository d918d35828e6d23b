//! Keys of the version before, which are no mistake for one version: who updates should read a sentence, not find a gateway that is down.

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

/// What to say about `section.name` in a file; `None` when it was no key.
pub(super) fn key(section: &str, name: &str) -> Option<String> {
    let deprecated = DEPRECATED
        .iter()
        .find(|key| key.section == section && key.name == name)?;
    Some(sentence(&format!("{section}.{name}"), deprecated))
}

/// What to say about an environment variable; `None` when it was none of a key.
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
