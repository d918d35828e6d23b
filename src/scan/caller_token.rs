//! A caller's own access token.

use std::fmt;

use ring::digest;

use crate::operation::Operation;
use crate::scan::{Request, hex};
use crate::secret::Secret;

/// Whose access token a call carries. A rejected token is the fault of its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenOwner {
    /// The gateway signs in.
    #[default]
    Gateway,
    /// The caller brought its own.
    Caller,
}

impl TokenOwner {
    /// The owner of the token that a call for `request` carries.
    pub fn of(request: &Request) -> Self {
        match request.caller_token() {
            Some(_) => Self::Caller,
            None => Self::Gateway,
        }
    }
}

/// A bearer token of a caller, which is used upstream instead of the gateway's.
///
/// It is opaque: the upstream judges its claims. The gateway knows only its [`TokenId`].
#[derive(Clone)]
pub struct CallerToken {
    secret: Secret,
    token_id: TokenId,
}

impl CallerToken {
    /// The longest token in bytes. Entra's have a few thousand.
    pub const MAX_BYTES: usize = 16 * 1024;

    /// The token after `Bearer`; `None` when it does not have that form (RFC 6750 §2.1, `b64token`)
    /// or is too long.
    pub fn new(token: &str) -> Option<Self> {
        let body = token.trim_end_matches('=');
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
        if token.len() > Self::MAX_BYTES || body.is_empty() || !body.bytes().all(is_good) {
            return None;
        }
        let mut token_id = [0; 32];
        token_id.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        Some(Self {
            secret: Secret::new(token.to_owned()),
            token_id: TokenId(token_id),
        })
    }

    /// The token itself, to be put on the wire only.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The token's id.
    pub fn token_id(&self) -> TokenId {
        self.token_id
    }
}

impl fmt::Debug for CallerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallerToken").field(&self.token_id).finish()
    }
}

/// The SHA-256 of a token, which tells tokens apart without trusting them. Two tokens of one person
/// have two ids.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId([u8; 32]);

impl TokenId {
    /// All of it in hexadecimal digits, for keys.
    pub(super) fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to tell tokens apart in a log.
        write!(f, "TokenId({})", hex(&self.0[..6]))
    }
}

/// What a call is charged to: the token that it uses, and its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Payer {
    /// The caller's token; `None` for the gateway's.
    pub token_id: Option<TokenId>,
    /// The operation.
    pub operation: Operation,
}

impl Payer {
    /// Scan history by definition, with the gateway's token.
    pub const HISTORY: Self = Self {
        token_id: None,
        operation: Operation::HistoryByDefinition,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_the_right_form_are_told_apart_by_their_bytes() {
        let token_id = |token| CallerToken::new(token).unwrap().token_id();
        assert_eq!(token_id("a.b-c_d~e+f/g=="), token_id("a.b-c_d~e+f/g=="));
        assert_ne!(token_id("abc"), token_id("abc="));
        assert_ne!(token_id("abc"), token_id("ABC"));
    }

    #[test]
    fn everything_else_is_no_token() {
        let longest = "a".repeat(CallerToken::MAX_BYTES);
        assert!(CallerToken::new(&longest).is_some());
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
            assert!(CallerToken::new(bad).is_none(), "{bad:.20?}");
        }
    }

    #[test]
    fn debug_output_contains_nothing_of_the_token() {
        // The digest is of `printf hunter2 | sha256sum`.
        let caller_token = CallerToken::new("hunter2").unwrap();
        assert_eq!(format!("{caller_token:?}"), "CallerToken(TokenId(f52fbd32b2b3))");
        assert_eq!(caller_token.secret().expose(), "hunter2");
    }
}
