//! The `OData` query options of the operations.

use std::num::NonZeroU32;
use std::sync::Arc;

use url::form_urlencoded;

use crate::operation::Query;
use crate::scan::{Endpoint, Excerpt, ParseError};

/// `$top` and `$skip`, checked; or the query of a link to a next page, which only the upstream
/// understands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// At most this many rows.
    pub top: Option<NonZeroU32>,
    /// Skip this many rows. `Some(0)` differs from `None`, because the caller's query is sent as it
    /// is.
    pub skip: Option<u64>,
    /// The whole query of a link, or of an operation that accepts any query, as it was written;
    /// then the other two are `None`.
    pub link: Option<Arc<str>>,
}

impl Options {
    /// The largest `$top` that Defender documents.
    pub const MAX_TOP: u32 = 10_000;
    /// With the largest documented `$top`: an answer with fewer rows and without a link is not cut
    /// off.
    pub const ALL: Self = Self {
        top: NonZeroU32::new(Self::MAX_TOP),
        skip: None,
        link: None,
    };

    /// The largest `$skip`: `OData` numbers are signed.
    pub const MAX_SKIP: u64 = i64::MAX as u64;

    /// The mark that the gateway adds to the query of a link that it would not recognise otherwise.
    pub const LINK_MARK: &str = "defender-gateway-link";

    /// Parses the query of a request to an operation.
    ///
    /// # Errors
    ///
    /// The operation does not accept it.
    pub fn of(endpoint: Endpoint, query: Option<&str>) -> Result<Self, ParseError> {
        match endpoint.operation.declaration().query {
            Query::Paging => Self::parse(query),
            Query::Any => refuse_secrets(endpoint, query).map(|()| Self {
                link: query.map(unmarked).filter(|query| !query.is_empty()),
                ..Self::default()
            }),
        }
    }

    /// Parses a query, without its question mark. Names and values may be percent-encoded.
    ///
    /// A query with `$skiptoken` is that of a link (`OData` 4.01 §11.2.6.7), and so is one with
    /// [`LINK_MARK`](Self::LINK_MARK), which is removed.
    ///
    /// # Errors
    ///
    /// In any other query, everything but one `$top` from 1 to 10,000 and one `$skip` from 0 on is
    /// rejected, so that a misspelt option is not silently ignored.
    pub fn parse(query: Option<&str>) -> Result<Self, ParseError> {
        let mut options = Self::default();
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return Ok(options);
        };
        if let Some(link) = link(query) {
            return Ok(Self {
                link: Some(link),
                ..options
            });
        }
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "$top" if options.top.is_some() => return Err(ParseError::DoubleOption("$top")),
                "$top" => options.top = Some(top(&value).ok_or(ParseError::Top)?),
                "$skip" if options.skip.is_some() => return Err(ParseError::DoubleOption("$skip")),
                "$skip" => options.skip = Some(whole(&value, Self::MAX_SKIP).ok_or(ParseError::Skip)?),
                other => return Err(ParseError::UnknownOption(Excerpt::new(other))),
            }
        }
        Ok(options)
    }

    /// The query to send upstream, without its question mark; `None` when it is empty.
    pub fn query(&self) -> Option<String> {
        if let Some(link) = &self.link {
            return Some(link.as_ref().to_owned()).filter(|link| !link.is_empty());
        }
        match (self.top, self.skip) {
            (None, None) => None,
            (Some(top), None) => Some(format!("$top={top}")),
            (None, Some(skip)) => Some(format!("$skip={skip}")),
            (Some(top), Some(skip)) => Some(format!("$top={top}&$skip={skip}")),
        }
    }
}

/// The query of a link, without the mark; `None` when it is no link's.
fn link(query: &str) -> Option<Arc<str>> {
    if query.split('&').any(|pair| pair == Options::LINK_MARK) {
        return Some(unmarked(query));
    }
    let mut names = form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    names
        .any(|name| name.trim_start_matches('$').eq_ignore_ascii_case("skiptoken"))
        .then(|| query.into())
}

/// Rejects a query that could return credentials under another name, or reveal something about
/// them. Selecting them is allowed, because their values are replaced.
fn refuse_secrets(endpoint: Endpoint, query: Option<&str>) -> Result<(), ParseError> {
    let secrets = endpoint.operation.declaration().secrets;
    let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    for (name, value) in pairs {
        let text = value.to_ascii_lowercase();
        let mentions = |secret: &&str| text.contains(&secret.to_ascii_lowercase());
        if name != "$select" && secrets.iter().any(mentions) {
            return Err(ParseError::SecretOption(Excerpt::new(&name)));
        }
    }
    Ok(())
}

/// A query without the mark, if it has one.
fn unmarked(query: &str) -> Arc<str> {
    let pairs: Vec<_> = query.split('&').filter(|pair| *pair != Options::LINK_MARK).collect();
    pairs.join("&").into()
}

fn top(text: &str) -> Option<NonZeroU32> {
    whole(text, Options::MAX_TOP.into())
        .and_then(|n| u32::try_from(n).ok())
        .and_then(NonZeroU32::new)
}

/// Digits only: `str::parse` alone would accept a leading plus sign.
fn whole(text: &str, max: u64) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
        .filter(|n| *n <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Result<(Option<u32>, Option<u64>), ParseError> {
        Options::parse(Some(query)).map(|o| (o.top.map(NonZeroU32::get), o.skip))
    }

    #[test]
    fn both_options_are_read_in_any_order_and_encoding() {
        assert_eq!(Options::parse(None), Ok(Options::default()));
        assert_eq!(parsed(""), Ok((None, None)));
        assert_eq!(parsed("&&"), Ok((None, None)));
        assert_eq!(parsed("$top=1"), Ok((Some(1), None)));
        assert_eq!(parsed("%24top=%31%30&%24skip=007"), Ok((Some(10), Some(7))));
        assert_eq!(parsed("$skip=0&$top=10000"), Ok((Some(10_000), Some(0))));
        assert_eq!(parsed("$skip=9223372036854775807"), Ok((None, Some(Options::MAX_SKIP))));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for query in [
            "$top=0",
            "$top=10001",
            "$top=-1",
            "$top=",
            "$top",
            "$top=+1",
            "$top=%2B1",
            "$top=1.0",
            "$top=1e3",
        ] {
            assert_eq!(parsed(query), Err(ParseError::Top), "{query}");
        }
        for query in [
            "$skip=-1",
            "$skip=",
            "$skip=9223372036854775808",
            "$skip=99999999999999999999",
            "$skip=٣",
        ] {
            assert_eq!(parsed(query), Err(ParseError::Skip), "{query}");
        }
    }

    #[test]
    fn doubled_and_unknown_options_are_refused() {
        assert_eq!(parsed("$top=1&%24top=1"), Err(ParseError::DoubleOption("$top")));
        assert_eq!(parsed("$skip=1&$skip=2"), Err(ParseError::DoubleOption("$skip")));
        for name in ["$Top", "top", "$filter", "$count", "", "%zz"] {
            assert_eq!(
                parsed(&format!("{name}=1")),
                Err(ParseError::UnknownOption(Excerpt::new(name)))
            );
        }
    }

    #[test]
    fn the_query_of_a_link_is_opaque() {
        for query in [
            "$skiptoken=abc",
            "%24skiptoken=a%2Fb%3D%3D",
            "$skipToken=x&$top=0",
            "skiptoken=x",
            "?=1&=10000&$skip=10000&$skiptoken=",
            "pagesize=5&$filter=a eq 'b'&$SKIPTOKEN=1",
        ] {
            let options = Options::parse(Some(query)).unwrap();
            assert_eq!((options.top, options.skip), (None, None));
            assert_eq!(options.query().as_deref(), Some(query));
        }
        for (query, sent) in [
            ("page=2&defender-gateway-link", "page=2"),
            ("defender-gateway-link&?=&=10000&$skip=1", "?=&=10000&$skip=1"),
            ("defender-gateway-link", ""),
        ] {
            let options = Options::parse(Some(query)).unwrap();
            assert_eq!(options.query().unwrap_or_default(), sent);
            assert_ne!(options, Options::default(), "it is no plain request");
        }
        assert!(parsed("page=2&x=defender-gateway-link").is_err());
    }

    #[test]
    fn lists_take_any_query_that_says_nothing_about_credentials() {
        use crate::scan::Operation;
        let of =
            |operation, query| Options::of(Endpoint::latest(operation), Some(query)).map(|options| options.query());
        for query in [
            "pagesize=100",
            "pageSize=10000&x",
            "$top=0",
            "$filter=a%20eq%20'b'",
            "$select=id,scanAuthenticationParams",
        ] {
            assert_eq!(of(Operation::Definitions, query).unwrap().unwrap(), query);
        }
        assert_eq!(
            of(Operation::Definitions, "a=1&defender-gateway-link")
                .unwrap()
                .unwrap(),
            "a=1"
        );
        for query in [
            "$compute=scanAuthenticationParams%20as%20x",
            "$apply=groupby((%53canAuthenticationParams/authPassword))",
            "a=1&$filter=startswith(scanAuthenticationParams/username,'a')",
        ] {
            assert!(
                matches!(of(Operation::Definition, query), Err(ParseError::SecretOption(_))),
                "{query}"
            );
            assert!(of(Operation::Agents, query).is_ok(), "{query}");
        }
    }

    #[test]
    fn the_query_sent_equals_the_parsed_options() {
        for query in ["$top=1", "$skip=0", "$top=10000&$skip=3"] {
            assert_eq!(Options::parse(Some(query)).unwrap().query().as_deref(), Some(query));
        }
        assert_eq!(Options::default().query(), None);
    }
}
