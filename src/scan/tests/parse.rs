use crate::scan::{Endpoint, Request};
use crate::scan::{Excerpt, ParseError};

const MEMBER: &str = "ScanDefinitionIds";

fn read_bytes(body: &[u8]) -> Result<Vec<String>, ParseError> {
    let request = Request::parse(Endpoint::HISTORY, None, body)?;
    Ok(request.ids().map(str::to_owned).collect())
}

fn read(body: &str) -> Result<Vec<String>, ParseError> {
    read_bytes(body.as_bytes())
}

#[test]
fn the_documented_shapes_are_read() {
    assert_eq!(read(r#"{"ScanDefinitionIds":["b","a"]}"#).unwrap(), ["a", "b"]);
    assert_eq!(read(r#" { "ScanDefinitionIds" : "x" } "#).unwrap(), ["x"]);
    assert_eq!(read(r#"{"\u0053canDefinitionIds":["\u0061\n"]}"#).unwrap(), ["a"]);
    // As files from Windows begin.
    assert_eq!(
        read("\u{feff}{\"ScanDefinitionIds\":[\"b\",\"a\"]}").unwrap(),
        ["a", "b"]
    );
}

#[test]
fn guids_are_lower_cased_and_other_ids_kept() {
    let guid = "7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F";
    assert_eq!(
        read(&format!(
            r#"{{"ScanDefinitionIds":["{guid}"," {} ","Weekly","weekly"]}}"#,
            guid.to_lowercase()
        ))
        .unwrap(),
        [&guid.to_lowercase(), "Weekly", "weekly"]
    );
    let almost = guid.replace("AC1A", "AG1A");
    assert_eq!(
        read(&format!(r#"{{"ScanDefinitionIds":"{almost}"}}"#)).unwrap(),
        [almost]
    );
}

#[test]
fn ids_that_share_their_first_eight_bytes_are_still_sorted_and_told_apart() {
    assert_eq!(
        read(r#"{"ScanDefinitionIds":["aaaaaaaab","aaaaaaaa","aaaaaaaab","aaaaaaaa\u0000","aaaaaaaaa"]}"#).unwrap(),
        ["aaaaaaaa", "aaaaaaaa\0", "aaaaaaaaa", "aaaaaaaab"]
    );
}

#[test]
fn every_other_body_is_refused_with_its_own_reason() {
    let cases = [
        ("", ParseError::Empty(MEMBER)),
        ("\u{feff}{}", ParseError::NoMember(MEMBER)),
        ("[]", ParseError::NotObject(MEMBER)),
        ("null", ParseError::NotObject(MEMBER)),
        ("\"ScanDefinitionIds\"", ParseError::NotObject(MEMBER)),
        ("{}", ParseError::NoMember(MEMBER)),
        (r#"{"ScanDefinitionIds":[]}"#, ParseError::NoIds(MEMBER)),
        (r#"{"ScanDefinitionIds":[""]}"#, ParseError::EmptyId(MEMBER)),
        (
            r#"{"ScanDefinitionIds":" \t "}"#.replace("\\t", "\\u2003").leak(),
            ParseError::EmptyId(MEMBER),
        ),
        (r#"{"ScanDefinitionIds":null}"#, ParseError::NotStrings(MEMBER)),
        (r#"{"ScanDefinitionIds":7}"#, ParseError::NotStrings(MEMBER)),
        (r#"{"ScanDefinitionIds":{"a":"b"}}"#, ParseError::NotStrings(MEMBER)),
        (r#"{"ScanDefinitionIds":["a",7]}"#, ParseError::NotStrings(MEMBER)),
        (r#"{"ScanDefinitionIds":["a",null]}"#, ParseError::NotStrings(MEMBER)),
        (r#"{"ScanDefinitionIds":[["a"]]}"#, ParseError::NotStrings(MEMBER)),
        (
            r#"{"ScanDefinitionIds":["a"],"ScanDefinitionIds":["a"]}"#,
            ParseError::DoubleMember(MEMBER),
        ),
        (
            r#"{"scanDefinitionIds":["a"]}"#,
            ParseError::UnknownMember(Excerpt::new("scanDefinitionIds"), MEMBER),
        ),
        (
            r#"{"ScanDefinitionIds":["a"],"x":1}"#,
            ParseError::UnknownMember(Excerpt::new("x"), MEMBER),
        ),
    ];
    for (body, fault) in cases {
        assert_eq!(read(body).unwrap_err(), fault, "{body}");
    }
}

#[test]
fn invalid_json_is_rejected_with_a_position() {
    for body in [
        r#"{"ScanDefinitionIds":"x""#,
        r#"{"ScanDefinitionIds":["x"]}}"#,
        r#"{"ScanDefinitionIds":["x"]} x"#,
        r#"{"ScanDefinitionIds":["x",]}"#,
        r#"{"ScanDefinitionIds":["\ud800"]}"#,
        r#"{"ScanDefinitionIds":["\udc00\ud800"]}"#,
        "{\"ScanDefinitionIds\":[\"a\nb\"]}",
        r"{'ScanDefinitionIds':['x']}",
        r#"{ScanDefinitionIds:["x"]}"#,
    ] {
        let fault = read(body).unwrap_err();
        assert!(
            matches!(&fault, ParseError::NotJson { reason } if reason.contains("line ")),
            "{body}: {fault:?}"
        );
    }
    assert_eq!(
        read_bytes(b"{\"ScanDefinitionIds\":\"\xff\"}").unwrap_err(),
        ParseError::NotUtf8 { valid_bytes: 22 }
    );
}

#[test]
fn plain_bodies_are_read_as_by_the_whole_parser() {
    // With an escape in the name, the same body is read by the slow parser.
    let both = |list: &str| {
        let plain = format!("{{\"ScanDefinitionIds\": {list} }}");
        let escaped = plain.replacen("ScanD", "\\u0053canD", 1);
        (read(&plain), read(&escaped))
    };
    let guid = "7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F";
    let long = "x".repeat(257);
    for ids in [
        vec!["a"],
        vec!["b", " a ", "", "b"],
        vec!["b", " a ", "\u{2003}x\u{2003}", "b"],
        vec![guid, &guid[1..], &long[1..]],
        vec!["a", &long],
        vec!["a", " \t"],
        vec![],
    ] {
        let (plain, whole) = both(&serde_json::to_string(&ids).unwrap());
        assert_eq!(plain, whole, "{ids:?}");
        let (plain, whole) = both(&serde_json::to_string_pretty(&ids).unwrap());
        assert_eq!(plain, whole, "{ids:?}");
    }
}

#[test]
fn deep_nesting_is_refused_without_a_deep_stack() {
    let deep = format!("{{\"ScanDefinitionIds\":{}", "[".repeat(1 << 20));
    assert_eq!(read(&deep).unwrap_err(), ParseError::NotStrings(MEMBER));
    let deep = format!("{{\"x\":{}", "{\"x\":".repeat(1 << 18));
    assert_eq!(
        read(&deep).unwrap_err(),
        ParseError::UnknownMember(Excerpt::new("x"), MEMBER)
    );
    assert_eq!(read(&"[".repeat(1 << 20)).unwrap_err(), ParseError::NotObject(MEMBER));
}

#[test]
fn the_limits_are_the_documented_ones() {
    let list = |count: usize| {
        let ids: Vec<_> = (0..count).map(|n| format!("\"{n}\"")).collect();
        read(&format!("{{\"ScanDefinitionIds\":[{}]}}", ids.join(",")))
    };
    assert_eq!(list(Request::MAX_IDS).unwrap().len(), Request::MAX_IDS);
    assert_eq!(list(Request::MAX_IDS + 1).unwrap_err(), ParseError::TooManyIds(MEMBER));
    let id = |bytes: usize| read(&format!("{{\"ScanDefinitionIds\":\" {} \"}}", "x".repeat(bytes)));
    assert_eq!(id(Request::MAX_ID_BYTES).unwrap()[0].len(), Request::MAX_ID_BYTES);
    assert_eq!(
        id(Request::MAX_ID_BYTES + 1).unwrap_err(),
        ParseError::LongId {
            member: MEMBER,
            bytes: 257
        }
    );
}

#[test]
fn excerpts_are_short_and_printable() {
    assert_eq!(Excerpt::new("a\r\nb").as_str(), "a\u{fffd}\u{fffd}b");
    // Written from the right, a terminal would show the rest of the line in another order.
    assert_eq!(Excerpt::new("a\u{202e}b\u{2028}c").as_str(), "a\u{fffd}b\u{fffd}c");
    assert_eq!(Excerpt::new(&"é".repeat(64)).as_str(), "é".repeat(64));
    assert_eq!(Excerpt::new(&"é".repeat(65)).as_str(), "é".repeat(64) + "…");
}

#[test]
fn messages_name_the_limits() {
    assert_eq!(
        ParseError::Top.to_string(),
        "$top must be a whole number from 1 to 10000"
    );
    assert!(ParseError::Top.is_about_options());
    assert_eq!(
        ParseError::TooManyIds("ScanDefinitionIds").to_string(),
        "ScanDefinitionIds names more than 10000 ids"
    );
    assert!(!ParseError::TooManyIds("ScanDefinitionIds").is_about_options());
    assert_eq!(
        ParseError::UnknownMember(Excerpt::new("scanDefinitionIds"), "ScanDefinitionIds").target(),
        Some("scanDefinitionIds")
    );
}
