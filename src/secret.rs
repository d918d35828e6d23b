//! A string that must never be shown: zeroized on drop, redacted in `Debug`, without `Display` or
//! `Serialize`.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

/// A client secret, token, assertion or private key in memory. Clones share it.
#[derive(Clone)]
pub struct Secret(Arc<Held>);

struct Held {
    text: SecretString,
    /// The value of the bearer header field, made once, because every call needs it and a token has
    /// some 2,000 bytes.
    bearer: OnceLock<Option<HeaderValue>>,
}

impl Secret {
    /// Takes ownership of `value`, so that no second copy is left behind.
    pub fn new(value: String) -> Self {
        Self(Arc::new(Held {
            text: value.into(),
            bearer: OnceLock::new(),
        }))
    }

    /// The value, to be put on the wire only. It must not be logged or stored.
    pub fn expose(&self) -> &str {
        self.0.text.expose_secret()
    }

    /// The value of `Authorization` with this bearer token; `None` when it contains characters that
    /// a header field cannot. Copies share its text, which is zeroized as well.
    pub fn bearer(&self) -> Option<HeaderValue> {
        let field = self.0.bearer.get_or_init(|| {
            let text = Shown(["Bearer ", self.expose()].concat().into());
            let mut field = HeaderValue::from_maybe_shared(Bytes::from_owner(text)).ok()?;
            field.set_sensitive(true);
            Some(field)
        });
        field.clone()
    }
}

/// A secret text as bytes.
struct Shown(SecretString);

impl AsRef<[u8]> for Shown {
    fn as_ref(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_value() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "[redacted]");
    }

    #[test]
    fn a_token_becomes_a_field_that_shows_nothing_either() {
        let token = Secret::new("hunter2".into());
        let field = token.bearer().unwrap();
        assert_eq!(field, "Bearer hunter2");
        assert!(!format!("{field:?}").contains("hunter2"));
        assert_eq!(
            field.as_bytes().as_ptr(),
            token.clone().bearer().unwrap().as_bytes().as_ptr()
        );
        assert_eq!(Secret::new("two\nlines".into()).bearer(), None);
    }
}
