//! What a declaration of an operation says.

use http::Method;

use super::Operation;

/// An operation of the upstream.
#[derive(Debug)]
pub struct Declaration {
    /// Its name in metrics, logs, keys and the store. Stable.
    pub name: &'static str,
    /// Its `operationId` in the description. Stable.
    pub operation_id: &'static str,
    /// What it answers, as a sentence without its full stop.
    pub summary: &'static str,
    /// The path behind `/api` and `/api/v1.0`. A last segment `{id}` stands for the id of an
    /// entity.
    pub path: &'static str,
    /// Where a request says what it is about.
    pub input: Input,
    /// Which query options it takes.
    pub query: Query,
    /// What a good answer looks like.
    pub shape: Shape,
    /// How answers are kept.
    pub kept: Kept,
    /// For how long they are fresh.
    pub lifetime: Lifetime,
    /// Members, at any depth, that may hold credentials. Their values are replaced by null,
    /// whatever they are.
    pub secrets: &'static [&'static str],
    /// One row, or the entity, as JSON: an example for the description.
    pub example: &'static str,
}

/// Where a request says what it is about. The methods follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// In its path: `GET`.
    Path,
    /// In a body, `{"<member>": [string, …]}`: `POST`, or `QUERY` (RFC 10008).
    Ids {
        /// The one member.
        member: &'static str,
        /// An id, as an example for the description.
        example: &'static str,
    },
}

/// Which query options an operation takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// `$top` and `$skip`, checked, or the query of a link to a further page. Any other option is
    /// refused.
    Paging,
    /// Whatever the caller writes goes upstream as it is.
    Any,
}

/// What a good answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An object with an array `value`.
    List,
    /// One entity, which is an object with an `id`; or an array `value`, as parts of the
    /// documentation have it.
    Entity,
}

/// How answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Whole, by request.
    Whole,
    /// Whole, and by id as well: different requests can share a call, and be answered from each
    /// other's rows.
    ById {
        /// The members that name a row's id, in every casing that is known.
        names: [&'static str; 3],
    },
    /// Whole; and an entity that stands in a fresh list is answered from there.
    InList(Operation),
}

/// For how long answers are fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// For `cache.ttl`.
    Ttl,
    /// For `cache.finished_ttl` when all that it speaks of has ended and will not change again;
    /// otherwise for `cache.ttl`.
    Finished,
}

impl Declaration {
    /// The methods that callers may use, besides `OPTIONS`.
    pub const fn methods(&self) -> &'static [Method] {
        match self.input {
            Input::Path => &[Method::GET],
            Input::Ids { .. } => &[Method::POST, Method::QUERY],
        }
    }

    /// The method that the upstream is asked with. None of them changes anything there.
    pub const fn upstream_method(&self) -> Method {
        match self.input {
            Input::Path => Method::GET,
            Input::Ids { .. } => Method::POST,
        }
    }

    /// The member of its body that holds the ids; empty where there is no body.
    pub const fn member(&self) -> &'static str {
        match self.input {
            Input::Path => "",
            Input::Ids { member, .. } => member,
        }
    }

    /// Whether different requests can share a call, and answers are kept by id.
    pub const fn is_by_id(&self) -> bool {
        matches!(self.kept, Kept::ById { .. })
    }

    /// The members that name the id that a row is about; none where rows are not told apart.
    pub const fn id_names(&'static self) -> &'static [&'static str] {
        match &self.kept {
            Kept::ById { names } => names,
            Kept::Whole | Kept::InList(_) => &[],
        }
    }

    /// The path without the segment that stands for an id, and whether there is one.
    pub fn fixed_path(&self) -> (&'static str, bool) {
        match self.path.strip_suffix("/{id}") {
            Some(fixed) => (fixed, true),
            None => (self.path, false),
        }
    }
}
