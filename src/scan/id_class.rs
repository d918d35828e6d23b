//! Which ids could be the same id for the upstream.
//!
//! How the upstream parses ids is not documented. A service in .NET parses a GUID in five forms
//! (`N`, `D`, `B`, `P`, `X`), in either case and with white space around it, and compares text by
//! the collation of its database. Two spellings that could be one id are never asked for in one
//! call for different requests, and nothing is concluded from the rows of one about the other.

use std::collections::HashSet;

use crate::scan::Request;
use crate::scan::ids::Guid;

/// What all spellings of an id have in common: the 32 digits of a GUID, or the letters and digits
/// of other text, in lower case.
///
/// It is coarser than any upstream is likely to be: two ids of one class may be different ids, but
/// ids of two classes are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct IdClass(Box<str>);

impl IdClass {
    /// The class of an id; `None` when nothing is certain about it, because it is not ASCII and
    /// collations differ.
    pub(super) fn of(id: &str) -> Option<Self> {
        if !id.is_ascii() {
            return None;
        }
        let digits = from_hexadecimal(id).or_else(|| from_dashed(id));
        Some(Self(digits.unwrap_or_else(|| folded(id)).into()))
    }
}

/// Letters and digits in lower case, without the prefix of a URN (RFC 9562 §4).
fn folded(id: &str) -> String {
    let letters = id.bytes().filter(u8::is_ascii_alphanumeric);
    let text: String = letters.map(|byte| char::from(byte.to_ascii_lowercase())).collect();
    let prefixes = ["urnuuid", "urnguid", "uuid", "guid"];
    let rest = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    match rest {
        Some(rest) if is_digits(rest) && rest.len() == 32 => rest.to_owned(),
        _ => text,
    }
}

/// The digits of a GUID in the form `X`: `{0x60c4aa2d,0x7f35,0x4b8f,{0x9e,0x0a,0x00,…}}`, in which
/// leading zeros may be left out.
fn from_hexadecimal(id: &str) -> Option<String> {
    const WIDTHS: [usize; 11] = [8, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2];
    if !id.contains(',') {
        return None;
    }
    let bare: String = id
        .chars()
        .filter(|c| !c.is_ascii_whitespace() && !matches!(c, '{' | '}' | '(' | ')'))
        .collect();
    let parts: Vec<_> = bare.split(',').collect();
    if parts.len() != WIDTHS.len() {
        return None;
    }
    let digits = parts.into_iter().zip(WIDTHS).map(|(part, width)| padded(part, width));
    digits.collect()
}

/// The digits of a GUID in the form `D`, with or without braces. Within a group, .NET accepts a
/// sign or `0x` before the digits.
fn from_dashed(id: &str) -> Option<String> {
    let bare = id.trim().trim_matches(|c| matches!(c, '{' | '}' | '(' | ')'));
    if bare.len() != Guid::BYTES || !bare.contains(['+', 'x', 'X']) {
        return None;
    }
    let is_dashed = [8, 13, 18, 23].iter().all(|at| bare.as_bytes()[*at] == b'-');
    // The last group is parsed in two parts.
    let groups = [0..8, 9..13, 14..18, 19..23, 24..28, 28..36];
    let digits = groups
        .into_iter()
        .map(|group| padded(&bare[group.clone()], group.len()));
    is_dashed.then(|| digits.collect()).flatten()
}

/// A hexadecimal number, with or without a sign and `0x`, padded to this many digits.
fn padded(number: &str, width: usize) -> Option<String> {
    let number = number.strip_prefix('+').unwrap_or(number);
    let number = number
        .strip_prefix("0x")
        .or_else(|| number.strip_prefix("0X"))
        .unwrap_or(number);
    let digits = number.trim_start_matches('0').to_ascii_lowercase();
    (is_digits(&digits) && digits.len() <= width).then(|| format!("{digits:0>width$}"))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
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
    classes: std::cell::OnceCell<Vec<(IdClass, usize)>>,
}

impl<'a> Asked<'a> {
    /// The ids of a request, which must be distinct.
    pub(super) fn new(request: &'a Request) -> Self {
        Self {
            ids: request.ids().collect(),
            names: request.endpoint().operation.declaration().id_names(),
            classes: std::cell::OnceCell::new(),
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
            let mut classes: Vec<_> = ids.filter_map(|(nth, id)| Some((IdClass::of(id)?, nth))).collect();
            classes.sort_unstable();
            classes
        });
        let at = classes.binary_search_by(|(other, _)| other.cmp(&class)).ok()?;
        Some(classes[at].1)
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
            hexadecimal,
            format!("urn:uuid:{guid}"),
        ];
        let cases = forms.iter().flat_map(|form| [form.clone(), form.to_uppercase()]);
        cases.flat_map(|text| [text.clone(), format!("\t{text} ")]).collect()
    }

    #[test]
    fn all_spellings_of_a_guid_are_of_one_class() {
        for guid in [
            GUID,
            "00000000-0000-0000-0000-000000000000",
            "0f0e0d0c-0b0a-0908-0706-050403020100",
        ] {
            let class = IdClass::of(guid);
            assert!(class.is_some());
            for spelling in spellings(guid) {
                assert_eq!(IdClass::of(&spelling), class, "{spelling}");
            }
        }
        let signed = "+0c4aa2d-0x35-4b8f-9e0a-000000000a01";
        assert_eq!(IdClass::of(signed), IdClass::of("00c4aa2d-0035-4b8f-9e0a-000000000a01"));
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
            assert_eq!(
                asked.find(&spelling).map(|nth| asked.ids[nth]),
                Some(GUID),
                "{spelling}"
            );
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
            for (one, other) in one.iter().zip(&other) {
                prop_assert_ne!(IdClass::of(one), IdClass::of(other));
            }
        }

        #[test]
        fn no_id_makes_it_panic(id in any::<String>(), ascii in "[ -~]{0,40}", odd in "[{(]?[0-9a-fxX+, -]{34,38}[)}]?") {
            let _ = (IdClass::of(&id), IdClass::of(&ascii), IdClass::of(&odd));
        }
    }
}
