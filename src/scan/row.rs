//! The relevant members of one row.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::scan::SplitError;
use crate::scan::id_class::Asked;

/// The relevant members of a row.
pub(super) struct RowInfo<'a> {
    /// The number of its id among the requested ids.
    pub(super) id: usize,
    pub(super) time: Option<&'a str>,
}

pub(super) fn row_info<'a>(asked: &Asked<'_>, row: &'a str) -> Result<RowInfo<'a>, SplitError> {
    struct Reader<'r, 'a>(&'r Asked<'a>);
    impl<'de> Visitor<'de> for Reader<'_, '_> {
        type Value = Option<RowInfo<'de>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a row")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut id, mut time, mut times) = (None, None, 0);
            while let Some(name) = map.next_key::<Text<'de>>()? {
                match &*name.0 {
                    name if self.0.is_id_name(name.as_bytes()) => {
                        let named = self.0.find(&map.next_value::<Text<'de>>()?.0);
                        if named.is_none() || id.is_some_and(|id| Some(id) != named) {
                            return Ok(None);
                        }
                        id = named;
                    }
                    "LastScanned" => {
                        times += 1;
                        time = timestamp(map.next_value::<&RawValue>()?.get());
                    }
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
            Ok(id.map(|id| RowInfo {
                id,
                time: time.filter(|_| times == 1),
            }))
        }
    }
    let mut json = serde_json::Deserializer::from_str(row);
    json.deserialize_map(Reader(asked))
        .ok()
        .flatten()
        .ok_or(SplitError::Unattributed)
}

/// The text of a JSON string that is a timestamp.
fn timestamp(raw: &str) -> Option<&str> {
    let text = raw.strip_prefix('"')?.strip_suffix('"')?;
    is_timestamp(text.as_bytes()).then_some(text)
}

/// Whether it is a timestamp in the one documented form, `2026-03-01T04:05:06.1234567Z`. Within
/// this form, but not across forms, times compare as texts do.
pub(super) fn is_timestamp(text: &[u8]) -> bool {
    const FORM: &[u8; 28] = b"0000-00-00T00:00:00.0000000Z";
    let Ok(text) = <&[u8; 28]>::try_from(text) else {
        return false;
    };
    // Without an early end, so that all bytes are compared at once.
    text.iter().zip(FORM).fold(true, |fits, (byte, form)| {
        fits & if *form == b'0' {
            byte.is_ascii_digit()
        } else {
            byte == form
        }
    })
}

/// A string, borrowed if it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);
