//! A checked request in canonical form.

use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::operation::Input;
use crate::scan::id_class::are_distinct;
use crate::scan::ids::IdSet;
use crate::scan::key::KeyPrefix;
use crate::scan::parse::read_ids;
use crate::scan::{CallerToken, Endpoint, EntityId, Ids, Key, Options, ParseError, Payer, Target, TokenId};

/// A request to one of the operations: checked, and canonical, so that equal requests are equal
/// values.
///
/// ```
/// use defender_gateway::testing::scan::{Request, Endpoint};
///
/// let one = Request::parse(Endpoint::HISTORY, None, br#"{"ScanDefinitionIds":["b", " a", "b"]}"#)?;
/// let other = Request::parse(Endpoint::HISTORY, Some(""), br#"{"ScanDefinitionIds":["a","b"]}"#)?;
/// assert_eq!(one, other);
/// assert_eq!(one.ids().collect::<Vec<_>>(), ["a", "b"]);
/// assert_eq!(&one.body()[..], br#"{"ScanDefinitionIds":["a","b"]}"#);
/// # Ok::<(), defender_gateway::testing::scan::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    key: Key,
    ids_at: usize,
    count: usize,
    endpoint: Endpoint,
    options: Options,
    caller_token: Option<Arc<CallerToken>>,
    /// Computed when it is first needed, which a hit does not.
    distinct: OnceLock<bool>,
}

impl Request {
    /// The most ids in one request, as the caller wrote them. Defender documents no limit; this one
    /// bounds the work.
    pub const MAX_IDS: usize = 10_000;
    /// The longest id in bytes. Defender's ids are GUIDs of 36 bytes.
    pub const MAX_ID_BYTES: usize = 256;

    /// Parses a request to an operation that takes ids in a body.
    ///
    /// `query` comes without its question mark: `$top` and `$skip`, or that of a link to a next
    /// page, which is passed on as it is. `body` is `{"ScanDefinitionIds": [string, …]}` or the
    /// like, or one string in place of the array. What else Defender might ignore or reject is
    /// rejected here, so that a mistake costs no call.
    ///
    /// # Errors
    ///
    /// [`ParseError`] says what is wrong, for the caller to read.
    pub fn parse(endpoint: Endpoint, query: Option<&str>, body: &[u8]) -> Result<Self, ParseError> {
        let options = Options::of(endpoint, query)?;
        let head = KeyPrefix { endpoint, options };
        let ids = read_ids(&head, body)?;
        Self::new(head, ids)
    }

    /// The request of a path and a query.
    ///
    /// # Errors
    ///
    /// The operation needs a body, or does not accept this query.
    pub fn get(target: &Target, query: Option<&str>) -> Result<Self, ParseError> {
        let endpoint = target.endpoint;
        let head = KeyPrefix {
            endpoint,
            options: Options::of(endpoint, query)?,
        };
        match endpoint.operation.declaration().input {
            Input::Ids { member, .. } => Err(ParseError::Empty(member)),
            Input::Path => {
                let ids = IdSet::of(&head, target.id.as_ref().map(EntityId::as_str))?;
                Self::new(head, ids)
            }
        }
    }

    /// A request without `$top` and `$skip`, from ids of other requests.
    ///
    /// # Errors
    ///
    /// As for the ids of a body.
    pub fn plain<'a>(endpoint: Endpoint, ids: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseError> {
        Self::of_ids(endpoint, Options::default(), ids)
    }

    /// A request with the largest `$top`, for the gateway's own calls: its answer is not cut off
    /// where answers without `$top` are.
    ///
    /// # Errors
    ///
    /// As for the ids of a body.
    pub fn all<'a>(endpoint: Endpoint, ids: impl IntoIterator<Item = &'a str>) -> Result<Self, ParseError> {
        Self::of_ids(endpoint, Options::ALL, ids)
    }

    fn of_ids<'a>(
        endpoint: Endpoint,
        options: Options,
        ids: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ParseError> {
        let head = KeyPrefix { endpoint, options };
        let ids = IdSet::of(&head, ids)?.canonical()?;
        Self::new(head, ids)
    }

    fn new(head: KeyPrefix, ids: IdSet) -> Result<Self, ParseError> {
        Ok(Self {
            ids_at: ids.ids_at,
            count: ids.count,
            key: Key::new(ids.into_text()?),
            endpoint: head.endpoint,
            options: head.options,
            caller_token: None,
            distinct: OnceLock::new(),
        })
    }

    /// The same request with a caller's own token. It differs from the request without it, because
    /// the answer may differ.
    pub fn with_token(self, caller_token: CallerToken) -> Self {
        let (key, ids_at) = self.key.with_token_id(caller_token.token_id(), self.ids_at);
        Self {
            key,
            ids_at,
            caller_token: Some(Arc::new(caller_token)),
            ..self
        }
    }

    /// The caller's token; `None` for the gateway's.
    pub fn caller_token(&self) -> Option<&CallerToken> {
        self.caller_token.as_deref()
    }

    /// The id of that token.
    pub fn token_id(&self) -> Option<TokenId> {
        self.caller_token().map(CallerToken::token_id)
    }

    /// What its call is charged to.
    pub fn payer(&self) -> Payer {
        Payer {
            token_id: self.token_id(),
            operation: self.endpoint.operation,
        }
    }

    /// The key by which equal requests are recognised.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The requested ids: trimmed, GUIDs in lower case, without duplicates, sorted. Empty for a
    /// request for a list.
    pub fn ids(&self) -> Ids<'_> {
        self.key.ids(self.ids_at, self.count)
    }

    /// `$top`: at most this many rows, 1 to 10,000.
    pub fn top(&self) -> Option<NonZeroU32> {
        self.options.top
    }

    /// `$skip`: skip this many rows.
    pub fn skip(&self) -> Option<u64> {
        self.options.skip
    }

    /// The operation, and its path.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// Whether the operation's answers have rows by id, the request has neither query options nor a
    /// token of its own, and no two of its ids could be one id for the upstream. Only such requests
    /// can be batched, and their answers split by id.
    pub fn is_plain(&self) -> bool {
        self.endpoint.operation.declaration().is_by_id() && self.is_bare() && self.has_distinct_ids()
    }

    /// Whether the request has neither query options nor a token of its own.
    pub fn is_bare(&self) -> bool {
        self.options == Options::default() && self.caller_token.is_none()
    }

    /// Whether its only option is the largest `$top`.
    pub fn asks_for_all(&self) -> bool {
        self.options == Options::ALL
    }

    /// Whether it is plain, or would be without the largest `$top`: whether it wants all rows of
    /// its ids.
    pub fn is_whole(&self) -> bool {
        self.endpoint.operation.declaration().is_by_id()
            && (self.options == Options::default() || self.asks_for_all())
            && self.caller_token.is_none()
            && self.has_distinct_ids()
    }

    /// Whether no two of its ids could be two spellings of one id for the upstream.
    pub fn has_distinct_ids(&self) -> bool {
        *self.distinct.get_or_init(|| are_distinct(self.ids()))
    }

    /// The path to send upstream.
    pub fn upstream_path(&self) -> String {
        let id = self
            .ids()
            .next()
            .filter(|_| self.endpoint.operation.declaration().input == Input::Path);
        self.endpoint.path(id.map(EntityId::of_canonical).as_ref())
    }

    /// The query to send upstream, without its question mark.
    pub fn query(&self) -> Option<String> {
        self.options.query()
    }

    /// The canonical body to send upstream, empty where the operation takes none. It is always an
    /// array, because it is not documented whether a bare string works upstream.
    pub fn body(&self) -> Bytes {
        let Input::Ids { member, .. } = self.endpoint.operation.declaration().input else {
            return Bytes::new();
        };
        let ids: Vec<&str> = self.ids().collect();
        // Texts can always be written as JSON.
        let ids = serde_json::to_string(&ids).unwrap_or_default();
        format!("{{\"{member}\":{ids}}}").into()
    }
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Request {}

impl std::hash::Hash for Request {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}
