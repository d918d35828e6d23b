//! The canonical key of a request: equal for equal requests, different for different ones.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use ring::digest;

use crate::scan::ids::Guid;
use crate::scan::{Endpoint, Options, TokenId};

/// What makes two requests equal: operation, version, query options and the canonical ids, and the
/// id of the caller's own token if it brought one.
///
/// It is the request itself, in a form in which every part is delimited by its length, and not a
/// digest: two different requests cannot have the same key, however hostile their ids are. Clones
/// share the text. Tenant and app are the same for all requests of one process; where keys of
/// several processes meet, in a shared store, [`Key::digest`] adds them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The key with this text: a [`KeyPrefix`] and canonical ids, each [`Delimited`].
    pub(super) fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The key of the rows of one canonical id. It is no request's key.
    pub fn of_rows(endpoint: Endpoint, id: &str) -> Self {
        Self(format!("rows/{}/{}/{id}", endpoint.name(), endpoint.version.as_str()).into())
    }

    /// The same key for requests with a token of their own, and where the ids, which began at
    /// `ids_at`, begin in it. No key without a token begins like this, and all token ids have one
    /// length.
    pub(super) fn with_token_id(&self, token_id: TokenId, ids_at: usize) -> (Self, usize) {
        let text = format!("by/{}/{}", token_id.hex(), self.0);
        let ids_at = ids_at + text.len() - self.0.len();
        (Self(text.into()), ids_at)
    }

    pub(super) fn ids(&self, ids_at: usize, count: usize) -> Ids<'_> {
        Ids {
            rest: self.0.get(ids_at..).unwrap_or_default(),
            left: count,
        }
    }

    /// The bytes of the key's text.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// SHA-256 over tenant, app and this key, each delimited by its length: the key for a store
    /// that gateways of several apps may share.
    pub fn digest(&self, namespace: &Namespace) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        for piece in [&*namespace.tenant, &*namespace.app, &*self.0] {
            context.update(&(piece.len() as u64).to_be_bytes());
            context.update(piece.as_bytes());
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }

    /// Twelve hexadecimal digits to recognise the key by, in logs and in `Cache-Status`. They are
    /// not unique enough for a lookup.
    pub fn short(&self) -> String {
        let digest = digest::digest(&digest::SHA256, self.0.as_bytes());
        hex(&digest.as_ref()[..6])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.short())
    }
}

/// The bytes of a digest in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The namespace of keys: answers depend on the tenant and on what its app may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    tenant: Arc<str>,
    app: Arc<str>,
}

impl Namespace {
    /// The namespace of an app registration in a tenant.
    pub fn new(tenant: &str, app: &str) -> Self {
        Self {
            tenant: tenant.into(),
            app: app.into(),
        }
    }
}

/// The ids of a request, in canonical order. They are read from the request's key without
/// allocating.
#[derive(Clone, Debug)]
pub struct Ids<'a> {
    rest: &'a str,
    left: usize,
}

impl<'a> Iterator for Ids<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let mut chars = self.rest.chars();
        let bytes = chars.next()? as usize + 1;
        let (id, rest) = chars.as_str().split_at_checked(bytes)?;
        self.rest = rest;
        self.left -= 1;
        Some(id)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Ids<'_> {}

/// The part of a key before its ids.
#[derive(Clone, Debug)]
pub(super) struct KeyPrefix {
    pub(super) endpoint: Endpoint,
    pub(super) options: Options,
}

impl KeyPrefix {
    /// The member of the body that contains the ids.
    pub(super) fn member(&self) -> &'static str {
        self.endpoint.operation.declaration().member()
    }

    /// Its text, with room for this many bytes after it.
    pub(super) fn text(&self, room: usize) -> String {
        let link = self.options.link.as_deref();
        let mut text = String::with_capacity(64 + link.map_or(0, str::len) + room);
        text.push_str(self.endpoint.name());
        text.push('/');
        text.push_str(self.endpoint.version.as_str());
        push_number(&mut text, self.options.top.map(|top| top.get().into()));
        push_number(&mut text, self.options.skip);
        if let Some(link) = link {
            // Nothing else begins like this at this position, and the length tells where it ends.
            // Writing to a string cannot fail.
            let _ = write!(text, "?{}?{link}", link.len());
        }
        text.push('/');
        text
    }
}

/// `/` and the number; nothing after the slash when there is none.
fn push_number(text: &mut String, number: Option<u64>) {
    text.push('/');
    if let Some(number) = number {
        // Writing to a string cannot fail.
        let _ = write!(text, "{number}");
    }
}

/// An id in a key, after its length as one character: U+0000 for one byte to U+00FF for 256.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delimited<'a> {
    /// With its length.
    pub(super) whole: &'a [u8],
    pub(super) id: &'a [u8],
}

impl<'a> Delimited<'a> {
    /// The length of a GUID, as written in a key.
    pub(super) const GUID: u8 = 35;

    /// Appends an id of 1 to 256 bytes to a key.
    pub(super) fn push(text: &mut Vec<u8>, id: &[u8]) {
        debug_assert!((1..=256).contains(&id.len()), "ids are checked before they get here");
        let length = char::from(u8::try_from(id.len() - 1).unwrap_or(u8::MAX));
        text.extend_from_slice(length.encode_utf8(&mut [0; 2]).as_bytes());
        text.extend_from_slice(id);
    }

    /// Appends a GUID in one step.
    #[inline]
    pub(super) fn push_guid(text: &mut Vec<u8>, id: &[u8; Guid::BYTES]) {
        let mut whole = [Self::GUID; Guid::BYTES + 1];
        whole[1..].copy_from_slice(id);
        text.extend_from_slice(&whole);
    }

    /// A GUID, or another id of the same length.
    #[inline]
    pub(super) fn guid(whole: &'a [u8; Guid::BYTES + 1]) -> Self {
        Self { whole, id: &whole[1..] }
    }

    /// The id that begins at `start`.
    #[inline]
    pub(super) fn at(text: &'a [u8], start: usize) -> Self {
        let text = &text[start..];
        // The first bits of a two-byte character are in its first byte (RFC 3629 §3).
        let (length, ahead) = match *text {
            [first, second, ..] if !first.is_ascii() => (first << 6 | second & 0x3F, 2),
            [first, ..] => (first, 1),
            [] => (0, 0),
        };
        let whole = &text[..=ahead + usize::from(length)];
        Self {
            whole,
            id: &whole[ahead..],
        }
    }
}
