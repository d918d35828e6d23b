//! The envelope of an answer: everything around its rows.
//!
//! `@odata.context` and `value` are documented. Other members stay where they are when an answer is
//! split or joined, unless they could be about certain rows or their number: then they would be
//! wrong beside other rows.

use crate::scan::SplitError;
use crate::scan::id_class::Asked;
use crate::scan::members::{Member, members, string};

/// The members of an answer.
#[derive(Debug)]
pub(super) struct Envelope<'a> {
    /// The text of `value`.
    pub(super) value: &'a str,
    /// The members that are not documented.
    others: Vec<Member<'a>>,
}

/// Parts of names that are about other pages, or about the number of rows.
const ABOUT_ROWS: [&str; 7] = ["link", "count", "total", "skip", "page", "delta", "error"];

impl<'a> Envelope<'a> {
    /// The most bytes of unknown members, because all of them are searched.
    const LARGEST: usize = 4096;

    /// Parses an answer.
    ///
    /// # Errors
    ///
    /// [`SplitError::NextLink`] when there is a link to more rows, [`SplitError::Shape`] when it is
    /// not one object with one `value`.
    pub(super) fn read(text: &'a str) -> Result<Self, SplitError> {
        let (mut list, mut context, mut others) = (None, None, Vec::new());
        for (name, value) in members(text).map_err(|_| SplitError::Shape)? {
            match &*name {
                "value" if list.is_none() => list = Some(value),
                "value" => return Err(SplitError::Shape),
                "@odata.context" if context.is_none() => context = Some(string(value).ok_or(SplitError::Shape)?),
                other if other.to_ascii_lowercase().ends_with("nextlink") => return Err(SplitError::NextLink),
                _ => others.push((name, value)),
            }
        }
        let value = list.ok_or(SplitError::Shape)?;
        Ok(Self { value, others })
    }

    /// Checks that no member is about some of the rows only, or their number.
    ///
    /// # Errors
    ///
    /// [`SplitError::Shape`] when one may be.
    pub(super) fn check(&self, asked: &Asked<'_>, rows: usize) -> Result<(), SplitError> {
        let bytes: usize = self.others.iter().map(|(_, value)| value.len()).sum();
        let is_about_rows = |(name, value): &Member<'_>| {
            let name = name.to_ascii_lowercase();
            ABOUT_ROWS.iter().any(|part| name.contains(part)) || value.parse() == Ok(rows) || names_an_id(asked, value)
        };
        if bytes > Self::LARGEST || self.others.iter().any(is_about_rows) {
            return Err(SplitError::Shape);
        }
        Ok(())
    }
}

/// Whether a text contains one of the requested ids as a word, or between quotes.
fn names_an_id(asked: &Asked<'_>, text: &str) -> bool {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '-');
    let quoted = text.split('"');
    words
        .chain(quoted)
        .any(|word| !word.is_empty() && asked.find(word).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Endpoint, Request};

    fn check(members: &str) -> Result<(), SplitError> {
        let text = format!(r#"{{"value":[1,2,3]{members}}}"#);
        let envelope = Envelope::read(&text)?;
        assert_eq!(envelope.value, "[1,2,3]");
        let guid = "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f";
        let asked = Request::plain(Endpoint::HISTORY, [guid, "nightly"]).unwrap();
        envelope.check(&Asked::new(&asked), 3)
    }

    #[test]
    fn members_that_are_not_about_rows_can_be_split() {
        for members in [
            "",
            r#","@odata.type":"x""#,
            r#","x":null,"y":true,"z":{"a":[1.5e3,"b"]},"took_ms":17"#,
            r#","@odata.context":"c""#,
        ] {
            assert_eq!(check(members), Ok(()), "{members}");
        }
    }

    #[test]
    fn members_that_may_be_about_rows_cannot_be_split() {
        for members in [
            r#","@odata.count":7"#,
            r#","Total":9"#,
            r#","seen":3"#,
            r#","@odata.deltaLink":"x""#,
            r#","warnings":[{"id":"{7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F}"}]"#,
            r#","warnings":"7e8da3a590e94e22ac1a9b3d9a3b1d0f was slow""#,
            r#","of":["nightly"]"#,
            r#","value":[]"#,
            r#","@odata.context":1"#,
            r#","@odata.context":"c","@odata.context":"c","nightly":"NIGHTLY""#,
            r#","error":null"#,
        ] {
            assert_eq!(check(members), Err(SplitError::Shape), "{members}");
        }
        let long = format!(r#","x":"{}""#, "-".repeat(5000));
        assert_eq!(check(&long), Err(SplitError::Shape));
    }

    #[test]
    fn a_link_to_more_is_one_in_every_casing() {
        for name in [
            "@odata.nextLink",
            "@odata.nextlink",
            "odata.nextLink",
            "@nextLink",
            "NEXTLINK",
            "nextLin\\u006b",
        ] {
            assert_eq!(
                check(&format!(r#","{name}":"https://x""#)),
                Err(SplitError::NextLink),
                "{name}"
            );
        }
    }
}
