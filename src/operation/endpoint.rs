//! An operation under one of its two paths, which request means which, and the id of an entity as
//! it stands in a path.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Operation;

/// Which of an operation's two paths the caller used, and so which one is called upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// `/api/…`: whatever is current.
    Latest,
    /// `/api/v1.0/…`.
    V1,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Latest, Self::V1];

    /// The name in keys and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::V1 => "v1.0",
        }
    }

    /// What the paths begin with.
    pub const fn base(self) -> &'static str {
        match self {
            Self::Latest => "/api",
            Self::V1 => "/api/v1.0",
        }
    }
}

/// An operation under one of its two paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// What is asked.
    pub operation: Operation,
    /// Under which path.
    pub version: Version,
}

impl Endpoint {
    /// How many there are.
    pub const COUNT: usize = Operation::ALL.len() * Version::ALL.len();

    /// Scan history by definition, under its current path.
    pub const HISTORY: Self = Self::latest(Operation::HistoryByDefinition);

    /// The same under the path with a version.
    #[cfg(test)]
    pub const HISTORY_V1: Self = Self {
        version: Version::V1,
        ..Self::HISTORY
    };

    /// An operation under its current path.
    pub const fn latest(operation: Operation) -> Self {
        Self {
            operation,
            version: Version::Latest,
        }
    }

    /// All of them, in the order of [`Endpoint::index`].
    pub fn all() -> impl ExactSizeIterator<Item = Self> {
        (0..Self::COUNT).map(|index| Self {
            operation: Operation::ALL[index / Version::ALL.len()],
            version: Version::ALL[index % Version::ALL.len()],
        })
    }

    /// Its place in a table of [`Endpoint::COUNT`].
    pub const fn index(self) -> usize {
        self.operation as usize * Version::ALL.len() + self.version as usize
    }

    /// The operation's name in keys and logs.
    pub const fn name(self) -> &'static str {
        self.operation.declaration().name
    }

    /// Its path, with `{id}` where an id stands: the route for traces and the description.
    pub fn template(self) -> String {
        [self.version.base(), self.operation.declaration().path].concat()
    }

    /// Its path, here and upstream, about this entity if it is about one. It is written from the
    /// declaration.
    pub fn path(self, id: Option<&EntityId>) -> String {
        let (fixed, has_id) = self.operation.declaration().fixed_path();
        let mut path = [self.version.base(), fixed].concat();
        if let Some(id) = id.filter(|_| has_id) {
            path.push('/');
            path.push_str(&id.encoded());
        }
        path
    }
}

/// What the path of a request means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The operation, and under which path.
    pub endpoint: Endpoint,
    /// The entity that it is about.
    pub id: Option<EntityId>,
}

/// The operation behind a request's path, without its query; `None` for every other path, which is
/// then unknown here.
///
/// The match is exact: writes have siblings of these paths, so nothing close to one may pass for
/// it.
pub fn route(path: &str) -> Option<Target> {
    let rest = path.strip_prefix(Version::Latest.base())?;
    let (version, rest) = match rest.strip_prefix("/v1.0") {
        Some(rest) => (Version::V1, rest),
        None => (Version::Latest, rest),
    };
    let target = |operation, id| Target {
        endpoint: Endpoint { operation, version },
        id,
    };
    // A fixed path is never taken for that of an entity.
    let fixed = Operation::ALL
        .into_iter()
        .find(|operation| operation.declaration().path == rest);
    if let Some(operation) = fixed {
        return Some(target(operation, None));
    }
    let (collection, id) = rest.rsplit_once('/')?;
    let operation = Operation::ALL
        .into_iter()
        .find(|operation| operation.declaration().fixed_path() == (collection, true))?;
    Some(target(operation, Some(EntityId::read(id)?)))
}

/// The id of an entity that a path names, decoded and checked.
///
/// What is certain: written into a path, it is one segment that every server reads in the same way,
/// and it is not the name of an action.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntityId(Box<str>);

impl EntityId {
    /// Longest id, in bytes. The upstream's have up to 77.
    pub const MAX_BYTES: usize = 256;

    /// Reads a segment of a path; `None` when it is no id that could be asked for.
    ///
    /// Refused are separators of any kind, a second coding (`%25`), dots alone, space at an end,
    /// and letters alone: names of actions, such as `BatchDelete`, consist of letters, and every id
    /// of the upstream has a digit.
    pub fn read(segment: &str) -> Option<Self> {
        let id = percent_decoded(segment)?;
        let id = std::str::from_utf8(&id).ok()?;
        let is_forbidden =
            |c: char| c.is_control() || matches!(c, '/' | '\\' | ';' | '%' | '?' | '#' | '(' | ')' | '\'' | '"');
        let has_digit = id.bytes().any(|byte| byte.is_ascii_digit());
        let is_good = has_digit
            && id.len() <= Self::MAX_BYTES
            && id.trim() == id
            && !id.starts_with('$')
            && !id.contains(is_forbidden);
        is_good.then(|| Self(canonical(id)))
    }

    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id that a canonical request holds.
    pub(crate) fn of_canonical(id: &str) -> Self {
        Self(id.into())
    }

    /// The id as a segment of a path: all but unreserved characters are encoded (RFC 3986 §2.3).
    pub fn encoded(&self) -> Cow<'_, str> {
        utf8_percent_encode(&self.0, RESERVED).into()
    }
}

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// GUIDs in lower case, as ids in bodies are; everything else as it is.
fn canonical(id: &str) -> Box<str> {
    if is_guid(id) {
        id.to_ascii_lowercase().into()
    } else {
        id.into()
    }
}

/// 8-4-4-4-12 hexadecimal digits.
pub fn is_guid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A text without its escapes (RFC 3986 §2.1); `None` when one is cut off or broken.
pub fn percent_decoded(text: &str) -> Option<Cow<'_, [u8]>> {
    let is_code = |after: &str| after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let is_sound = text.split('%').skip(1).all(is_code);
    is_sound.then(|| percent_decode_str(text).into())
}
