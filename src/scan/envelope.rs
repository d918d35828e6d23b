//! The envelope of an answer: everything around its rows.
//!
//! `@odata.context` and `value` are documented. Other members stay where they are when an answer is
//! split or joined, unless they could be about certain rows or their number: then they would be
//! wrong beside other rows.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::scan::SplitError;
use crate::scan::id_class::Asked;
use crate::scan::row::Text;

/// The members that are not documented.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// Parts of names that are about other pages, or about the number of rows.
const ABOUT_ROWS: [&str; 7] = ["link", "count", "total", "skip", "page", "delta", "error"];

impl<'a> Envelope<'a> {
    /// The most bytes of unknown members, because all of them are searched.
    const LARGEST: usize = 4096;

    /// Parses an answer: its `value`, and its other members.
    ///
    /// # Errors
    ///
    /// [`SplitError::NextLink`] when there is a link to more rows, [`SplitError::Shape`] when it is
    /// not one object with one `value` of the expected type.
    pub(super) fn read<T: Deserialize<'a>>(text: &'a str) -> Result<(T, Self), SplitError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let mut split_error = SplitError::Shape;
        let reader = Reader {
            split_error: &mut split_error,
            list: PhantomData,
        };
        let read = reader.deserialize(&mut json).and_then(|read| json.end().map(|()| read));
        read.map_err(|_| split_error)
    }

    /// Checks that no member is about some of the rows only, or their number.
    ///
    /// # Errors
    ///
    /// [`SplitError::Shape`] when one may be.
    pub(super) fn check(&self, asked: &Asked<'_>, rows: usize) -> Result<(), SplitError> {
        let bytes: usize = self.others.iter().map(|(_, value)| value.get().len()).sum();
        let is_about_rows = |(name, value): &(Cow<'_, str>, &RawValue)| {
            let name = name.to_ascii_lowercase();
            ABOUT_ROWS.iter().any(|part| name.contains(part))
                || value.get().parse() == Ok(rows)
                || names_an_id(asked, value.get())
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

struct Reader<'d, T> {
    split_error: &'d mut SplitError,
    list: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Reader<'_, T> {
    type Value = (T, Envelope<'de>);

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<'_, T> {
    type Value = (T, Envelope<'de>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an answer")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        use serde::de::Error as _;
        let (mut list, mut context) = (None, false);
        let mut envelope = Envelope::default();
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            match &*name {
                "value" if list.is_none() => list = Some(map.next_value()?),
                "value" => return Err(A::Error::custom("two lists")),
                "@odata.context" if !context => {
                    context = true;
                    map.next_value::<Text<'de>>()?;
                }
                other if other.to_ascii_lowercase().ends_with("nextlink") => {
                    *self.split_error = SplitError::NextLink;
                    return Err(A::Error::custom("next link"));
                }
                _ => envelope.others.push((name, map.next_value()?)),
            }
        }
        let list = list.ok_or_else(|| A::Error::custom("no value"))?;
        Ok((list, envelope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Endpoint, Request};

    fn check(members: &str) -> Result<(), SplitError> {
        let text = format!(r#"{{"value":[1,2,3]{members}}}"#);
        let (list, envelope) = Envelope::read::<Vec<&RawValue>>(&text)?;
        let guid = "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f";
        let asked = Request::plain(Endpoint::HISTORY, [guid, "nightly"]).unwrap();
        envelope.check(&Asked::new(&asked), list.len())
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
