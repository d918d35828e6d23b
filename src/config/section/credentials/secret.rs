//! The client secret, from the environment or from a file of its own.

use super::key;
use crate::config::config_error::Origin;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader, Recorded};
use crate::config::value::guid::is_guid;
use crate::plain_text;
use crate::secret::Secret;
use crate::token::SecretSource;

/// Where the secret was written, if it was. A file for this program takes precedence over a
/// variable that every program sees.
pub(super) fn origin(reader: &Reader<'_>) -> Option<Origin> {
    let file = reader
        .is_set(&key::client_secret_file)
        .then(|| reader.origin(&key::client_secret_file));
    match (reader.secret(&key::client_secret), file) {
        (Some(secret), Some(file)) if is_borrowed(&secret.origin) => Some(file),
        (Some(secret), _) => Some(secret.origin),
        (None, file) => file,
    }
}

/// The secret at the place that [`origin`] returned.
pub(super) fn read(reader: &mut Reader<'_>) -> Read<SecretSource> {
    let said = reader.secret(&key::client_secret);
    let said = said.filter(|said| !(is_borrowed(&said.origin) && reader.is_set(&key::client_secret_file)));
    let Some(said) = said else {
        let path = reader.line_file(&key::client_secret_file)?.ok_or(Recorded)?;
        let looks_like_an_id = reader
            .content(&path)
            .is_ok_and(|content| plain_text::line(&content).is_ok_and(is_guid));
        if looks_like_an_id {
            reader.note(format!(
                "{}: {}: {AN_ID}",
                key::client_secret_file.path(),
                path.display()
            ));
        }
        return Ok(SecretSource::File(path));
    };
    let Origin::Variable(name) = said.origin else {
        return Err(Recorded);
    };
    let text = said.value.expose();
    // Secrets have no white space; a line break at the end or a byte order mark come from how the
    // variable was made.
    let trimmed = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if trimmed.is_empty() {
        let key = key::client_secret.path();
        return Err(reader.wrong_at(Origin::Variable(name), key, "holds nothing but white space"));
    }
    if trimmed.len() < text.len() {
        let what = if text.contains('\u{feff}') {
            "a byte order mark"
        } else {
            "white space"
        };
        reader.note(format!("{name}: {what} around the secret is left out"));
    }
    if is_guid(trimmed) {
        reader.note(format!("{name}: {AN_ID}"));
    }
    if let Err(malformed) = plain_text::line(trimmed.as_bytes()) {
        reader.note(format!("{name}: {malformed}"));
    }
    for oddity in plain_text::oddities(trimmed.as_bytes()) {
        reader.note(format!("{name}: {oddity}"));
    }
    Ok(SecretSource::Value(Secret::new(trimmed.to_owned())))
}

/// Rejects a secret together with a file for it, both meant for this program.
pub(super) fn check(reader: &mut Reader<'_>) {
    let ours = reader
        .secret(&key::client_secret)
        .is_some_and(|said| !is_borrowed(&said.origin));
    if ours && reader.is_set(&key::client_secret_file) {
        let problem = format!(
            "names a secret, and {} holds one; keep one of them",
            key::client_secret.variable()
        );
        reader.wrong(&key::client_secret_file, problem);
    }
}

const AN_ID: &str =
    "looks like the id of a secret; sign-in wants its value, which the portal shows only once (AADSTS7000215)";

/// Whether a value comes from another program's variable.
pub(super) fn is_borrowed(origin: &Origin) -> bool {
    matches!(origin, Origin::Variable(name) if !name.starts_with(Key::PREFIX))
}
