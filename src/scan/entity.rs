//! Takes one entity out of an answer with all entities.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::scan::Request;
use crate::scan::ids::canonical;

/// The form in which the upstream answers a request for one entity. It is not documented, so it is
/// taken from earlier answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntityForm {
    /// The entity's members beside the context, as in `OData` (`OData` JSON Format 4.01 §6).
    Bare,
    /// In a `value` with one element, as in some of the documentation's examples.
    Wrapped,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow, rename = "@odata.context")]
    context: &'a RawValue,
    #[serde(borrow)]
    value: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Entity<'a> {
    #[serde(borrow, alias = "Id")]
    id: Cow<'a, str>,
}

/// The beginning of a list that is written without space; entities are then written without space,
/// too.
const COMPACT: &[u8] = b"{\"@odata.context\":\"";

impl EntityForm {
    /// The form of a successful answer to a request for one entity; `None` when it shows none.
    pub fn of(body: &[u8]) -> Option<Self> {
        if serde_json::from_slice::<Entity<'_>>(body).is_ok() {
            return Some(Self::Bare);
        }
        let list: List<'_> = serde_json::from_slice(body).ok()?;
        (list.value.len() == 1).then_some(Self::Wrapped)
    }

    /// The answer that the upstream would give to `request` for one entity, made from the body of a
    /// `list`; `None` when the list does not contain the entity exactly once, or that is not
    /// certain.
    pub fn entity_in(self, request: &Request, list: &[u8]) -> Option<Bytes> {
        let id = request.ids().next()?;
        if !list.starts_with(COMPACT) || list.contains(&b'\n') {
            return None;
        }
        let List { context, value } = serde_json::from_slice(list).ok()?;
        let is_asked = |entity: &&&RawValue| {
            let named = serde_json::from_str::<Entity<'_>>(entity.get());
            named.is_ok_and(|named| canonical(&named.id) == id)
        };
        let mut found = value.iter().filter(is_asked);
        let (entity, None) = (found.next()?.get(), found.next()) else {
            return None;
        };
        let context = context.get().strip_suffix('"')?;
        let body = match self {
            Self::Bare => format!("{{\"@odata.context\":{context}/$entity\",{}", entity.strip_prefix('{')?),
            Self::Wrapped => format!("{{\"@odata.context\":{context}/$entity\",\"value\":[{entity}]}}"),
        };
        Some(body.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::route;

    fn request(id: &str) -> Request {
        let path = format!("/api/DeviceAuthenticatedScanAgents/{id}");
        Request::get(&route(&path).unwrap(), None).unwrap()
    }

    #[test]
    fn an_entity_keeps_its_bytes() {
        let list = br#"{"@odata.context":"https://x/$metadata#Agents","value":[{"a":1.50,"id":"a1"},{"id":"b2","n":"\u00e9"}]}"#;
        let bare = EntityForm::Bare.entity_in(&request("a1"), list).unwrap();
        assert_eq!(
            bare,
            r#"{"@odata.context":"https://x/$metadata#Agents/$entity","a":1.50,"id":"a1"}"#
        );
        let wrapped = EntityForm::Wrapped.entity_in(&request("b2"), list).unwrap();
        assert_eq!(
            wrapped,
            r#"{"@odata.context":"https://x/$metadata#Agents/$entity","value":[{"id":"b2","n":"\u00e9"}]}"#
        );
        assert_eq!(EntityForm::of(&bare), Some(EntityForm::Bare));
        assert_eq!(EntityForm::of(&wrapped), Some(EntityForm::Wrapped));
    }

    #[test]
    fn nothing_is_guessed() {
        for body in [
            r#"{"@odata.context":"c","value":[]}"#,
            r#"{"@odata.context":"c","value":[{"id":"a"},{"id":"b"}]}"#,
            r#"{"@odata.context":"c","scanName":"a"}"#,
            r#"{"@odata.context":"c","id":"#,
        ] {
            assert_eq!(EntityForm::of(body.as_bytes()), None, "{body}");
        }
        for list in [
            r#"{"@odata.context":"c","value":[{"id":"b2"}]}"#,
            r#"{"@odata.context":"c","value":[{"id":"a1"},{"id":"a1"}]}"#,
            r#"{"@odata.context":"c","value":[{"machineId":"a1"}]}"#,
            r#"{"@odata.context": "c", "value": [{"id": "a1"}]}"#,
            "{\"@odata.context\":\"c\",\"value\":[\n{\"id\":\"a1\"}]}",
            r#"{"value":[{"id":"a1"}]}"#,
            r#"{"@odata.context":"c","value":[{"id":"a1"}]"#,
            r#"{"@odata.context":"c","value":{}}"#,
        ] {
            assert_eq!(
                EntityForm::Bare.entity_in(&request("a1"), list.as_bytes()),
                None,
                "{list}"
            );
        }
    }
}
