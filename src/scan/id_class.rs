//! Which ids could be the same id for the upstream.
//!
//! How the upstream parses ids is not documented. A service in .NET parses a GUID in five forms
//! (`N`, `D`, `B`, `P`, `X`), in either case and with white space around it, and compares text by
//! the collation of its database. Two spellings that could be one id are never asked for in one
//! call for different requests, and nothing is concluded from the rows of one about the other.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use crate::scan::Request;
use crate::scan::ids::Guid;

/// What all spellings of an id have in common: the 32 digits of a GUID, or the letters and digits
/// of other text, in lower case.
///
/// It is coarser than any upstream is likely to be: two ids of one class may be different ids, but
/// ids of two classes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct IdClass(Box<str>);

impl IdClass {
    /// The class of an id: its letters and digits in lower case, without the prefix of a URN
    /// (RFC 9562 §4).
    ///
    /// `None` when nothing is certain about it: it is not ASCII, and collations differ, or it may
    /// be a GUID in numbers with `0x` or signs, as in the form `X`, which may have space anywhere.
    pub(super) fn of(id: &str) -> Option<Self> {
        let letters = id.bytes().filter(u8::is_ascii_alphanumeric);
        let text: String = letters.map(|byte| char::from(byte.to_ascii_lowercase())).collect();
        if !id.is_ascii() || id.contains('+') || text.contains("0x") {
            return None;
        }
        let prefixes = ["urnuuid", "urnguid", "uuid", "guid"];
        let rest = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
        let is_guid = |rest: &&str| rest.len() == 32 && rest.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some(Self(rest.filter(is_guid).unwrap_or(&text).into()))
    }
}

/// Whether no two of these canonical ids could be one id for the upstream.
pub(super) fn are_distinct<'a>(ids: impl ExactSizeIterator<Item = &'a str> + Clone) -> bool {
    // Different GUIDs in one form are different ids, and nearly all requests have nothing else.
    if ids.len() <= 1 || ids.clone().all(|id| Guid::read(id.as_bytes()).is_some()) {
        return true;
    }
    let mut classes = HashSet::with_capacity(ids.len());
    ids.into_iter()
        .all(|id| IdClass::of(id).is_some_and(|class| classes.insert(class)))
}

/// The ids of one call for several requests.
#[derive(Debug)]
pub struct SharedIds {
    ids: HashSet<Box<str>>,
    /// `None` as long as nothing had to be compared.
    classes: Option<HashSet<IdClass>>,
}

impl SharedIds {
    /// The ids of a first request.
    pub fn new(first: &Request) -> Self {
        Self {
            ids: first.ids().map(Into::into).collect(),
            classes: None,
        }
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// How many more ids there would be with those of another request.
    pub fn more_with(&self, other: &Request) -> usize {
        other.ids().filter(|id| !self.ids.contains(*id)).count()
    }

    /// Whether the ids of another request may be added: none could be another spelling of one of
    /// these.
    pub fn admit(&mut self, other: &Request) -> bool {
        let classes = self.classes.get_or_insert_with(|| {
            let classes = self.ids.iter().map(|id| IdClass::of(id));
            // An id without a class shares a call with nothing: no class is left for others.
            classes.collect::<Option<_>>().unwrap_or_default()
        });
        if classes.is_empty() {
            return false;
        }
        let mut new = other.ids().filter(|id| !self.ids.contains(*id));
        new.all(|id| IdClass::of(id).is_some_and(|class| !classes.contains(&class)))
    }

    /// Adds the ids of another request, which were admitted.
    pub fn add(&mut self, other: &Request) {
        if let Some(classes) = &mut self.classes {
            classes.extend(other.ids().filter_map(IdClass::of));
        }
        self.ids.extend(other.ids().map(Into::into));
    }
}

/// The requested ids, to be recognised in whatever spelling a row uses.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// Canonical and sorted.
    pub(super) ids: Vec<&'a str>,
    /// The members of a row that contain its id.
    names: &'static [&'static str],
    /// Computed for the first id with another spelling.
    classes: OnceCell<HashMap<IdClass, usize>>,
}

impl<'a> Asked<'a> {
    /// The ids of a request, which must be distinct.
    pub(super) fn new(request: &'a Request) -> Self {
        Self {
            ids: request.ids().collect(),
            names: request.endpoint().operation.declaration().id_names(),
            classes: OnceCell::new(),
        }
    }

    /// Whether a row's member with this name contains its id.
    pub(super) fn is_id_name(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// The number of the one requested id that a row can mean by this text.
    pub(super) fn find(&self, named: &str) -> Option<usize> {
        let canonical = super::ids::canonical(named);
        self.ids
            .binary_search(&&*canonical)
            .ok()
            .or_else(|| self.find_by_class(named))
    }

    fn find_by_class(&self, named: &str) -> Option<usize> {
        let class = IdClass::of(named)?;
        let classes = self.classes.get_or_init(|| {
            let ids = self.ids.iter().enumerate();
            ids.filter_map(|(nth, id)| Some((IdClass::of(id)?, nth))).collect()
        });
        classes.get(&class).copied()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scan::Endpoint;
    use proptest::prelude::*;

    const GUID: &str = "60c4aa2d-7f35-4b8f-9e0a-000000000a01";

    /// All the spellings of a GUID that .NET parses, and some more that other systems do.
    pub(crate) fn spellings(guid: &str) -> Vec<String> {
        let digits = guid.replace('-', "");
        let bytes = |from: usize, to: usize| {
            let pairs = (from..to).step_by(2).map(|at| format!("0x{}", &digits[at..at + 2]));
            pairs.collect::<Vec<_>>().join(",")
        };
        let hexadecimal = format!(
            "{{0x{},0x{},0x{},{{{}}}}}",
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            bytes(16, 32)
        );
        let forms = [
            guid.to_owned(),
            digits,
            format!("{{{guid}}}"),
            format!("({guid})"),
            hexadecimal.replace("0x0", "0x"),
            hexadecimal.replace(',', " , "),
            hexadecimal.replace("0x", "0 x "),
            hexadecimal,
            format!("urn:uuid:{guid}"),
        ];
        let cases = forms.iter().flat_map(|form| [form.clone(), form.to_uppercase()]);
        cases.flat_map(|text| [text.clone(), format!("\t{text} ")]).collect()
    }

    /// Whether a spelling of a GUID is not in numbers.
    pub(crate) fn is_certain(spelling: &str) -> bool {
        !spelling.contains(['x', 'X'])
    }

    #[test]
    fn all_spellings_of_a_guid_are_of_one_class_or_none() {
        for guid in [
            GUID,
            "00000000-0000-0000-0000-000000000000",
            "0f0e0d0c-0b0a-0908-0706-050403020100",
        ] {
            let class = IdClass::of(guid);
            assert!(class.is_some());
            for spelling in spellings(guid) {
                let expected = class.clone().filter(|_| is_certain(&spelling));
                assert_eq!(IdClass::of(&spelling), expected, "{spelling}");
            }
        }
        assert_eq!(IdClass::of("+0c4aa2d-0035-4b8f-9e0a-000000000a01"), None);
    }

    #[test]
    fn other_ids_that_differ_in_case_marks_and_space_are_of_one_class() {
        for (one, other) in [("Nightly-7", "nightly7"), (" a ", "A"), ("{x}", "(X)"), ("a b", "ab")] {
            assert_eq!(IdClass::of(one), IdClass::of(other));
        }
        assert_ne!(IdClass::of("a1"), IdClass::of("a2"));
        assert_eq!(IdClass::of("é"), None, "collations differ");
    }

    fn request(ids: &[&str]) -> Request {
        Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap()
    }

    #[test]
    fn a_request_with_two_spellings_of_one_id_shares_nothing() {
        for spelling in spellings(GUID) {
            let request = request(&[GUID, &spelling, "b"]);
            let is_one = request.ids().len() == 2;
            assert_eq!(request.is_plain(), is_one, "{spelling}");
        }
        assert!(!request(&["a", "A"]).is_plain());
        assert!(!request(&["a", "é"]).is_plain(), "nothing is certain about the second");
        assert!(request(&["é"]).is_plain() && request(&["a", "b"]).is_plain());
    }

    #[test]
    fn a_shared_call_has_one_spelling_of_each_id() {
        let first = request(&[GUID, "a"]);
        let mut shared = SharedIds::new(&first);
        for spelling in spellings(GUID) {
            let other = request(&[&spelling, "z"]);
            let is_same = other.ids().any(|id| id == GUID);
            assert_eq!(shared.admit(&other), is_same, "{spelling}");
        }
        assert!(!shared.admit(&request(&["A"])) && !shared.admit(&request(&["é"])));
        let other = request(&["a", "b"]);
        assert_eq!((shared.more_with(&other), shared.admit(&other)), (1, true));
        shared.add(&other);
        assert_eq!(shared.len(), 3);
        assert!(!shared.admit(&request(&["B"])));
        assert!(!SharedIds::new(&request(&["é"])).admit(&other));
    }

    #[test]
    fn a_row_is_of_the_one_id_that_it_can_mean() {
        let ids = [GUID, "name", "é"];
        let asked = request(&ids);
        let asked = Asked::new(&asked);
        for spelling in spellings(GUID) {
            let found = asked.find(&spelling).map(|nth| asked.ids[nth]);
            assert_eq!(found, is_certain(&spelling).then_some(GUID), "{spelling}");
        }
        assert_eq!(asked.find("NAME").map(|nth| asked.ids[nth]), Some("name"));
        assert_eq!(asked.find("é").map(|nth| asked.ids[nth]), Some("é"));
        for other in ["É", "names", "", "e"] {
            assert_eq!(asked.find(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn different_guids_are_of_different_classes(one in any::<u128>(), other in any::<u128>()) {
            prop_assume!(one != other);
            let guid = |number: u128| {
                let text = format!("{number:032x}");
                format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
            };
            let (one, other) = (spellings(&guid(one)), spellings(&guid(other)));
            for (one, other) in one.iter().zip(&other).filter(|(one, _)| is_certain(one)) {
                prop_assert_ne!(IdClass::of(one), IdClass::of(other));
            }
        }

        #[test]
        fn no_id_makes_it_panic(id in any::<String>(), ascii in "[ -~]{0,40}", odd in "[{(]?[0-9a-fxX+, -]{34,38}[)}]?") {
            let _ = (IdClass::of(&id), IdClass::of(&ascii), IdClass::of(&odd));
        }
    }
}
