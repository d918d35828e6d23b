//! An operation under one of its two paths, and which request means which.

use super::{EntityId, Operation};

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
