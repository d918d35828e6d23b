use bytes::Bytes;

use crate::scan::id_class::tests::{is_certain, spellings};
use crate::scan::{Endpoint, Ordering, Request, Rows, SplitError, UpstreamProfile};
use proptest::prelude::*;
use serde_json::value::RawValue;

fn request(ids: &[&str]) -> Request {
    Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap()
}

fn split(ids: &[&str], body: &str) -> Result<Rows, SplitError> {
    Rows::split(&request(ids), &Bytes::copy_from_slice(body.as_bytes()))
}

fn only(ids: &[&str], body: &str, wanted: &[&str]) -> String {
    let asked = request(ids);
    let numbers: Vec<_> = asked.ids().map(|id| wanted.contains(&id)).collect();
    let rows = split(ids, body).unwrap();
    let bytes = rows.only(|id| numbers[id]);
    assert_eq!(rows.bytes_of(|id| numbers[id]), bytes.len());
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    // Whoever keeps the part keeps no more than the part.
    let buffer = bytes.try_into_mut();
    assert!(buffer.is_ok_and(|buffer| buffer.capacity() == text.len()) || rows.is_empty());
    text
}

#[test]
fn rows_are_cut_out_byte_for_byte() {
    let body = r#" {"@odata.context" : "https://x/$metadata","value":[{"ScanDefinitionIds":"b","n":1e400,"n":123456789012345678901234567890},{ "scanDefinitionId" : "A" ,"x":"\u00e9\/"},{"ScanDefinitionId":"b"}] } "#;
    assert_eq!(only(&["A", "b"], body, &["A", "b"]), body);
    assert_eq!(
        only(&["A", "b"], body, &["A"]),
        r#" {"@odata.context" : "https://x/$metadata","value":[{ "scanDefinitionId" : "A" ,"x":"\u00e9\/"}] } "#
    );
    assert_eq!(
        only(&["A", "b"], body, &["b"]),
        r#" {"@odata.context" : "https://x/$metadata","value":[{"ScanDefinitionIds":"b","n":1e400,"n":123456789012345678901234567890},{"ScanDefinitionId":"b"}] } "#
    );
    assert_eq!(
        only(&["A", "b"], body, &[]),
        r#" {"@odata.context" : "https://x/$metadata","value":[] } "#
    );
}

#[test]
fn a_row_is_attributed_in_whatever_case_it_names_a_guid() {
    let guid = "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f";
    let body = format!(r#"{{"value":[{{"ScanDefinitionIds":"{}"}}]}}"#, guid.to_uppercase());
    assert_eq!(split(&[guid], &body).unwrap().len(), 1);
}

#[test]
fn a_row_is_attributed_however_it_or_the_request_spells_the_id() {
    let guid = "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f";
    let spellings = spellings(guid);
    for asked in &spellings {
        for text in &spellings {
            let named = serde_json::Value::from(&**text);
            let row = format!(r#"{{"ScanDefinitionIds":{named}}}"#);
            let body = format!(r#"{{"value":[{row},{{"scanDefinitionId":"b"}}]}}"#);
            let expected = format!(r#"{{"value":[{row}]}}"#);
            if is_certain(asked) && is_certain(text) {
                assert_eq!(only(&[asked, "b"], &body, &[asked.trim(), guid]), expected, "{asked}");
            } else {
                // It is not guessed what GUID a spelling in numbers is.
                assert_eq!(
                    split(&[asked, "b"], &body).unwrap_err(),
                    SplitError::Unattributed,
                    "{asked}"
                );
            }
        }
        let twice = split(&[guid, asked], r#"{"value":[]}"#).map(|rows| rows.len());
        let is_one = request(&[guid, asked]).ids().len() == 1;
        assert_eq!(twice.is_ok(), is_one, "{asked}: whose rows they would be is not known");
    }
}

#[test]
fn rows_are_written_in_the_manner_of_the_answer() {
    let body = "{\r\n  \"value\": [\r\n    {\"ScanDefinitionIds\":\"a\"},\r\n    {\n\"ScanDefinitionIds\" :\"b\"} ,\t{\"ScanDefinitionIds\":\"a\",\"n\":2}\r\n  ],\r\n  \"@odata.context\": \"c\", \"x\": {\"y\": [1]}\r\n}\r\n";
    assert_eq!(only(&["a", "b"], body, &["a", "b"]), body);
    assert_eq!(
        only(&["a", "b"], body, &["a"]),
        "{\r\n  \"value\": [\r\n    {\"ScanDefinitionIds\":\"a\"} ,\t{\"ScanDefinitionIds\":\"a\",\"n\":2}\r\n  ],\r\n  \"@odata.context\": \"c\", \"x\": {\"y\": [1]}\r\n}\r\n"
    );
    assert_eq!(
        only(&["a", "b"], body, &["b"]),
        "{\r\n  \"value\": [\r\n    {\n\"ScanDefinitionIds\" :\"b\"}\r\n  ],\r\n  \"@odata.context\": \"c\", \"x\": {\"y\": [1]}\r\n}\r\n"
    );
    assert_eq!(
        only(&["a", "b"], body, &[]),
        "{\r\n  \"value\": [],\r\n  \"@odata.context\": \"c\", \"x\": {\"y\": [1]}\r\n}\r\n"
    );
    let marked = "\u{feff}{\"value\":[ {\"ScanDefinitionIds\":\"a\"} ]}";
    assert_eq!(only(&["a", "b"], marked, &["b"]), "\u{feff}{\"value\":[]}");
    assert_eq!(only(&["a", "b"], "{\"value\":[ \n ]}", &["b"]), "{\"value\":[ \n ]}");
}

#[test]
fn whatever_is_not_certain_cannot_be_split() {
    for (body, split_error) in [
        ("", SplitError::Shape),
        ("[]", SplitError::Shape),
        ("{}", SplitError::Shape),
        (r#"{"value":null}"#, SplitError::Shape),
        (r#"{"value":{}}"#, SplitError::Shape),
        (r#"{"value":[]}{}"#, SplitError::Shape),
        (r#"{"value":[],"value":[]}"#, SplitError::Shape),
        (r#"{"@odata.context":1,"value":[]}"#, SplitError::Shape),
        (r#"{"value":[],"@odata.nextLink":"https://x"}"#, SplitError::NextLink),
        (
            r#"{"@odata.nextLin\u006b":"https://x","value":[]}"#,
            SplitError::NextLink,
        ),
        (r#"{"value":[{}]}"#, SplitError::Unattributed),
        (r#"{"value":[1]}"#, SplitError::Unattributed),
        (r#"{"value":[{"ScanDefinitionIds":1}]}"#, SplitError::Unattributed),
        (r#"{"value":[{"ScanDefinitionIds":["a"]}]}"#, SplitError::Unattributed),
        (r#"{"value":[{"ScanDefinitionIds":"c"}]}"#, SplitError::Unattributed),
        (r#"{"value":[{"scandefinitionid":"a"}]}"#, SplitError::Unattributed),
        (
            r#"{"value":[{"ScanDefinitionIds":"a","scanDefinitionId":"b"}]}"#,
            SplitError::Unattributed,
        ),
    ] {
        assert_eq!(split(&["a", "b"], body).unwrap_err(), split_error, "{body}");
    }
    assert!(Rows::split(&request(&["a"]), &Bytes::from_static(b"{\"value\":[\xff]}")).is_err());
}

#[test]
fn only_times_in_the_documented_form_are_compared() {
    let time = |text: &str| {
        let body = format!(r#"{{"value":[{{"scanDefinitionId":"a",{text}}}]}}"#);
        let rows = split(&["a"], &body).unwrap();
        let (_, row, time) = rows.iter().next().unwrap();
        time.map(|time| String::from_utf8(row[time].to_vec()).unwrap())
    };
    for (written, compared) in [
        (".1234567Z", ".1234567"),
        (".1234560Z", ".123456"),
        (".1Z", ".1"),
        (".0000000Z", ""),
        ("Z", ""),
    ] {
        let good = format!(r#""LastScanned":"2026-03-01T04:05:00{written}""#);
        assert_eq!(time(&good), Some(format!("2026-03-01T04:05:00{compared}")), "{good}");
    }
    for other in [
        r#""LastScanned":null"#,
        r#""LastScanned":"2026-03-01T04:05:06.Z""#,
        r#""LastScanned":"2026-03-01T04:05Z""#,
        r#""LastScanned":"2026-03-01T04:05:06.12345678Z""#,
        r#""LastScanned":"2026-03-01T04:05:06.1234567""#,
        r#""LastScanned":"2026-03-01T04:05:06+00:00""#,
        r#""LastScanned":"2026-03-01T04:05:06.123456\u005a""#,
        r#""lastScanned":"2026-03-01T04:05:06.1234567Z""#,
        r#""LastScanned":"2026-03-01T04:05:06.1234567Z","LastScanned":"2026-03-01T04:05:06.1234567Z""#,
    ] {
        assert_eq!(time(other), None, "{other}");
    }
}

#[test]
fn answers_as_the_upstream_writes_them_are_split() {
    let row = |id: &str| {
        format!(
            r#"{{"orgId":"{id}","scanDefinitionId":"{id}","n":[1.5e-3, -0 ,{{ "x" : null}}],"ok":true,"LastScanned":"2026-03-01T04:05:06.1234567Z"}}"#
        )
    };
    for named in [&[][..], &["a"], &["b", "a", "a", " A "]] {
        let rows: Vec<_> = named.iter().map(|id| row(id)).collect();
        let body = format!(r#"{{"@odata.context": "https://x/é","value":[{}]}}"#, rows.join(","));
        let split = split(&["a", "b"], &body).unwrap();
        assert_eq!(split.len(), rows.len(), "{body}");
        for (((id, text, time), row), named) in split.iter().zip(&rows).zip(named) {
            assert_eq!((id, text), (usize::from(*named == "b"), row.as_bytes()));
            assert_eq!(&text[time.unwrap()], b"2026-03-01T04:05:06.1234567");
        }
    }
    let body = format!(r#"{{"value":[{}]}}"#, row("c"));
    assert_eq!(split(&["a", "b"], &body).unwrap_err(), SplitError::Unattributed);
}

/// What is split is what serde reads, and what serde cannot read is not split.
fn agree(ids: &[&str], body: &[u8]) -> Result<(), TestCaseError> {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        value: Vec<&'a RawValue>,
    }
    if let Ok(rows) = Rows::split(&request(ids), &Bytes::copy_from_slice(body)) {
        let answer = serde_json::from_slice::<Answer<'_>>(body);
        prop_assert!(answer.is_ok(), "{}", String::from_utf8_lossy(body));
        let expected: Vec<_> = answer
            .iter()
            .flat_map(|answer| &answer.value)
            .map(|row| row.get().as_bytes())
            .collect();
        prop_assert_eq!(rows.iter().map(|(_, text, _)| text).collect::<Vec<_>>(), expected);
    }
    Ok(())
}

/// A JSON value as some upstream might write it.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1e400".to_owned()),
        Just("-0.10".to_owned()),
        Just("12345678901234567890123".to_owned()),
        Just(r#""\u00e9\ud83d\ude00 ]},[{""#.to_owned()),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(" , "))),
            proptest::collection::vec(inner, 0..4).prop_map(|list| {
                let members: Vec<_> = list.iter().map(|value| format!("\"k\" :{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// Members of an envelope, before `value` and after it.
fn members() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("\"@odata.context\" :\"c\"".to_owned()),
        Just("\"took\": \"0.5\" ,\r\n\"flags\": {\"x\": [null, true]}".to_owned()),
    ]
}

proptest! {
    #[test]
    fn any_choice_of_ids_gets_exactly_its_rows(
        rows in proptest::collection::vec((0..4_usize, 0..3_usize, value(), value()), 0..12),
        chosen in proptest::array::uniform4(any::<bool>()),
        space in proptest::array::uniform4("[ \r\n\t]{0,3}"),
        others in (members(), members()),
    ) {
        let others = (
            if others.0.is_empty() { String::new() } else { format!("{},", others.0) },
            if others.1.is_empty() || others.0.contains("context") { String::new() } else { format!(" ,{}", others.1) },
        );
        let ids = ["a", "b", "c\"\\", "d"];
        let between = format!("{},{}", space[0], space[1]);
        let names = ["ScanDefinitionIds", "ScanDefinitionId", "scanDefinitionId"];
        let text: Vec<_> = rows.iter().map(|(id, name, before, after)| {
            let id = serde_json::Value::from(ids[*id]);
            format!("{{ \"x\":{before},\"{}\": {id},\"x\":{after}}}", names[*name])
        }).collect();
        let body = |list: &[&str]| {
            let (before, after) = if list.is_empty() && !rows.is_empty() { ("", "") } else { (&*space[2], &*space[3]) };
            format!("{{{}\"value\": [{before}{}{after}]{}}}", others.0, list.join(&between), others.1)
        };
        let all: Vec<_> = text.iter().map(String::as_str).collect();
        let some: Vec<_> = rows.iter().zip(&all).filter(|((id, ..), _)| chosen[*id]).map(|(_, text)| *text).collect();
        let split = split(&ids, &body(&all)).unwrap();
        prop_assert_eq!(split.only(|_| true), body(&all));
        prop_assert_eq!(split.only(|id| chosen[id]), body(&some));
        agree(&ids, body(&all).as_bytes())?;
        agree(&ids[..2], body(&all).as_bytes())?;
    }

    #[test]
    fn an_answer_with_a_mistake_is_never_split_otherwise_than_it_reads(
        values in proptest::collection::vec(value(), 1..4), at in any::<proptest::sample::Index>(),
        byte in prop_oneof![any::<u8>(), proptest::sample::select(&b"{}[],:\"\\ \n0e.-tz"[..])], cut in any::<bool>(),
    ) {
        let rows: Vec<_> = values.iter().map(|value| {
            format!(r#"{{"x":{value},"scanDefinitionId":"a","LastScanned":"2026-03-01T04:05:06.1234567Z"}}"#)
        }).collect();
        let mut body = format!(r#"{{"@odata.context":"c","value":[{}]}}"#, rows.join(",")).into_bytes();
        prop_assert_eq!(Rows::split(&request(&["a"]), &body.clone().into()).map(|rows| rows.len()), Ok(values.len()));
        agree(&["a"], &body)?;
        let at = at.index(body.len());
        if cut {
            body.remove(at);
        } else {
            body[at] = byte;
        }
        agree(&["a"], &body)?;
    }

    #[test]
    fn no_body_makes_the_splitter_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        agree(&["a"], &body)?;
    }
}

/// What is found out of the order of rows from so many answers with rows of two ids in turn, with
/// these times as JSON.
fn learned(times: &[&str], answers: usize) -> Result<Ordering, SplitError> {
    let row = |(n, time): (usize, &&str)| {
        let id = if n.is_multiple_of(2) { "b" } else { "a" };
        format!(r#"{{"ScanDefinitionIds":"{id}","LastScanned":{time}}}"#)
    };
    let rows: Vec<_> = times.iter().enumerate().map(row).collect();
    let body = format!(r#"{{"value":[{}]}}"#, rows.join(","));
    let upstream_profile = UpstreamProfile::new(0);
    for _ in 0..answers {
        upstream_profile.learn(&request(&["a", "b"]), &split(&["a", "b"], &body).unwrap());
    }
    upstream_profile.ordering(Endpoint::HISTORY)
}

#[test]
fn times_of_fewer_digits_compare_as_times() {
    let newest_first = [
        r#""2026-03-01T05:00:00.1Z""#,
        r#""2026-03-01T05:00:00.0999999Z""#,
        r#""2026-03-01T05:00:00.020000Z""#,
        r#""2026-03-01T05:00:00.02Z""#,
        r#""2026-03-01T05:00:00.001Z""#,
        r#""2026-03-01T05:00:00Z""#,
        r#""2026-03-01T05:00:00.0000000Z""#,
        r#""2026-03-01T04:59:59.9999999Z""#,
    ];
    assert_eq!(learned(&newest_first, 4), Ok(Ordering::NewestFirst));
}

#[test]
fn a_row_without_a_time_refutes_no_order_of_times() {
    let running = [
        "null",
        r#""2026-03-01T05:00:00.1000000Z""#,
        r#""2026-03-01T04:00:00.1000000Z""#,
        r#""2026-03-01T03:00:00.1000000Z""#,
    ];
    assert_eq!(learned(&running, 8), Ok(Ordering::NewestFirst));
}
