//! Keys of the previous version, which are not an error for one version: an update should lead to a
//! warning, not to a gateway that does not start.

use super::key::Key;

/// Section and name of each, and what there is instead.
const DEPRECATED: [(&str, &str, &str); 1] = [(
    "defender",
    "hedge",
    "a call to a host that answers nothing is made at another one without being told to",
)];

/// The warning about `section.name` in a file; `None` when it was no key.
pub(super) fn key(section: &str, name: &str) -> Option<String> {
    let what = format!("{section}.{name}");
    warning(&what, |section, name| format!("{section}.{name}") == what)
}

/// The warning about an environment variable; `None` when it belonged to no key.
pub(super) fn variable(variable: &str) -> Option<String> {
    warning(variable, |section, name| {
        format!("{}{section}_{name}", Key::PREFIX).to_uppercase() == variable
    })
}

fn warning(what: &str, is_meant: impl Fn(&str, &str) -> bool) -> Option<String> {
    let (.., now) = DEPRECATED.iter().find(|(section, name, _)| is_meant(section, name))?;
    Some(format!(
        "{what} is gone, means nothing any more and will be a mistake in the next version: {now}; remove it"
    ))
}
