//! The fields of an answer, made from those of one before.
//!
//! Nearly every answer has the same fields as another one lately, with other values. To copy a map and exchange its values takes a third of
//! what it takes to put every field into a new one.

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::scan::Fields;

/// Shapes that are remembered by each thread: hits, misses, and those with a field more or less.
const TEMPLATES: usize = 8;

thread_local! {
    static TEMPLATES_OF_THIS_THREAD: RefCell<Vec<HeaderTemplate>> = const { RefCell::new(Vec::new()) };
}

/// A map with certain fields, whose values do not matter.
struct HeaderTemplate {
    stored: Vec<HeaderName>,
    own: u32,
    map: HeaderMap,
}

/// The upstream's fields, and those of the gateway that have a value; `names` is the same at every call.
pub(super) fn build<const N: usize>(
    stored: &Fields,
    names: &[HeaderName; N],
    own: [Option<HeaderValue>; N],
) -> HeaderMap {
    const { assert!(N <= 32) };
    let present = (0_u32..).zip(&own).map(|(at, value)| u32::from(value.is_some()) << at);
    let present = present.fold(0, |all, one| all | one);
    TEMPLATES_OF_THIS_THREAD.with_borrow_mut(|moulds| {
        if let Some(template) = moulds.iter().find(|template| template.fits(stored, present)) {
            let mut map = template.map.clone();
            let mut places = map.values_mut();
            let mut place = |value| {
                if let Some(place) = places.next() {
                    *place = value;
                }
            };
            passed(stored).for_each(|(_, value)| place(value.clone()));
            own.into_iter().flatten().for_each(place);
            return map;
        }
        let map = put(stored, names, own);
        if moulds.len() >= TEMPLATES {
            // Shapes come and go with versions of the upstream; the oldest has had its time.
            moulds.remove(0);
        }
        moulds.extend(HeaderTemplate::of(&map, stored, present));
        map
    })
}

/// hyper counts the body itself; a length from elsewhere could contradict a rewritten link.
fn passed(stored: &Fields) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    stored.iter().filter(|(name, _)| *name != header::CONTENT_LENGTH)
}

fn put<const N: usize>(stored: &Fields, names: &[HeaderName; N], own: [Option<HeaderValue>; N]) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(stored.len() + N);
    for (name, value) in passed(stored) {
        map.append(name, value.clone());
    }
    for (name, value) in names.iter().zip(own) {
        if let Some(value) = value {
            map.insert(name, value);
        }
    }
    map
}

impl HeaderTemplate {
    /// `None` when two fields share a name: then values have no certain place.
    fn of(map: &HeaderMap, stored: &Fields, own: u32) -> Option<Self> {
        let stored: Vec<_> = passed(stored).map(|(name, _)| name.clone()).collect();
        let count = stored.len() + own.count_ones() as usize;
        let in_order = map.len() == count && map.keys().zip(&stored).all(|(one, other)| one == other);
        in_order.then(|| {
            // Copied one by one, it takes no more room than it has fields.
            let nothing = map.keys().map(|name| (name.clone(), HeaderValue::from_static("")));
            Self {
                stored,
                own,
                map: nothing.collect(),
            }
        })
    }

    fn fits(&self, stored: &Fields, own: u32) -> bool {
        self.own == own && passed(stored).map(|(name, _)| name).eq(&self.stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static OWN: [HeaderName; 3] = [header::AGE, header::VIA, HeaderName::from_static("x-request-id")];

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    fn fields(list: &[(&'static str, &str)]) -> Fields {
        let field = |(name, text): &(&'static str, &str)| (HeaderName::from_static(name), value(text));
        list.iter().map(field).collect()
    }

    fn own(values: [Option<&str>; 3]) -> [Option<HeaderValue>; 3] {
        values.map(|text| text.map(value))
    }

    /// Every kind of answer is as it would be without the moulds, whatever came before it on this thread.
    #[test]
    fn a_cast_is_like_a_map_that_was_filled() {
        let stored = [
            fields(&[("content-type", "application/json"), ("date", "today")]),
            fields(&[("date", "today"), ("content-type", "text/plain")]),
            fields(&[("content-length", "9"), ("x-ms-request-id", "a")]),
            fields(&[("link", "one"), ("link", "two"), ("date", "never")]),
            fields(&[("age", "overwritten"), ("date", "x")]),
            fields(&[]),
        ];
        for round in 0..3 {
            for stored in &stored {
                for mask in 0..8 {
                    let text = format!("{round} {mask}");
                    let values = [0, 1, 2].map(|at| (mask >> at & 1 == 1).then_some(&*text));
                    let build = build(stored, &OWN, own(values));
                    assert_eq!(build, put(stored, &OWN, own(values)), "{stored:?}, {values:?}");
                }
            }
        }
    }

    #[test]
    fn templates_are_few() {
        for name in 0..100 {
            let name = HeaderName::from_bytes(format!("x-{name}").as_bytes()).unwrap();
            let stored: Fields = [(name, value("y"))].into_iter().collect();
            assert_eq!(build(&stored, &OWN, own([None, None, Some("id")])).len(), 2);
        }
        let stored = TEMPLATES_OF_THIS_THREAD.with_borrow(|moulds| {
            let names = moulds.iter().flat_map(|template| &template.stored);
            names.map(HeaderName::to_string).collect::<Vec<_>>()
        });
        let latest: Vec<_> = (92..100).map(|name| format!("x-{name}")).collect();
        assert_eq!(stored, latest, "the latest ones are remembered");
    }
}
