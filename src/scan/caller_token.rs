//! A caller's own token.

use std::fmt;
use std::fmt::Write as _;

use ring::digest;

use crate::operation::Operation;
use crate::secret::Secret;

/// A bearer token that a caller brought along, to be used upstream in place of the gateway's.
///
/// It is opaque: what it claims is for the upstream to judge. All that the gateway knows of it is its [`Holder`].
#[derive(Clone)]
pub struct Delegated {
    secret: Secret,
    holder: Holder,
}

impl Delegated {
    /// Longest token, in bytes. Entra's have a few thousand.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// `token` as it stood behind `Bearer`; `None` when it is not of that form (RFC 6750 §2.1, `b64token`) or too long.
    #[must_use]
    pub fn new(token: &str) -> Option<Self> {
        let body = token.trim_end_matches('=');
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        if token.len() > Self::MAX_BYTES || body.is_empty() || !body.bytes().all(is_good) {
            return None;
        }
        let mut holder = [0; 32];
        holder.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Some(Self {
            secret: Secret::new(token.to_owned()),
            holder: Holder(holder),
        })
    }

    /// The token itself, for the one place that puts it on the wire.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.holder
    }
}

impl fmt::Debug for Delegated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Delegated").field(&self.holder).finish()
    }
}

/// Who holds a token, as far as can be known without trusting it: SHA-256 of its bytes. Two tokens of one person are two holders.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder([u8; 32]);

impl Holder {
    /// All of it in hexadecimal digits, for keys.
    pub(super) fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell them apart in a log.
        write!(f, "Holder({})", hex(&self.0[..6]))
    }
}

/// What a call may be counted by: whose token it is made with, and which operation it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Payer {
    /// Who holds the token; `None`: the gateway.
    pub holder: Option<Holder>,
    /// The operation.
    pub operation: Operation,
}

impl Payer {
    /// Scan history by definition, asked for with the gateway's token.
    pub const HISTORY: Self = Self {
        holder: None,
        operation: Operation::HistoryByDefinition,
    };
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_the_right_form_are_told_apart_by_their_bytes() {
        let holder = |token| Delegated::new(token).unwrap().holder();
        assert_eq!(holder("a.b-c_d~e+f/g=="), holder("a.b-c_d~e+f/g=="));
        assert_ne!(holder("abc"), holder("abc="));
        assert_ne!(holder("abc"), holder("ABC"));
    }

    #[test]
    fn everything_else_is_no_token() {
        let longest = "a".repeat(Delegated::MAX_BYTES);
        assert!(Delegated::new(&longest).is_some());
        for bad in [
            "",
            "=",
            "a b",
            "a=b",
            "a\r\nb",
            "ä",
            "a,b",
            "\"a\"",
            &format!("{longest}a"),
        ] {
            assert!(Delegated::new(bad).is_none(), "{bad:.20?}");
        }
    }

    #[test]
    fn what_is_shown_holds_nothing_of_the_token() {
        // The digest is of `printf hunter2 | sha256sum`.
        let delegated = Delegated::new("hunter2").unwrap();
        assert_eq!(format!("{delegated:?}"), "Delegated(Holder(f52fbd32b2b3))");
        assert_eq!(delegated.secret().expose(), "hunter2");
    }
}
