use crate::scan::{CallerToken, Endpoint, Namespace, Options, ParseError, Request};
use proptest::prelude::*;

fn ids() -> impl Strategy<Value = Vec<String>> {
    let id = prop_oneof![
        "[0-9a-fA-F]{8}-[0-9a-f]{4}-[0-9A-F]{4}-[0-9a-f]{4}-[0-9a-fA-F]{12}",
        "[ab]{1,3}",
        "\\PC{1,12}",
        any::<String>(),
        "[a-z]{256}",
    ];
    proptest::collection::vec(
        id.prop_filter("a good id", |id| !id.trim().is_empty() && id.trim().len() <= 256),
        1..12,
    )
}

fn options() -> impl Strategy<Value = (Option<u32>, Option<u64>)> {
    (
        proptest::option::of(1..=Options::MAX_TOP),
        proptest::option::of(prop_oneof![0..3_u64, 0..=Options::MAX_SKIP]),
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![Just(Endpoint::HISTORY), Just(Endpoint::HISTORY_V1)]
}

fn request(endpoint: Endpoint, (top, skip): (Option<u32>, Option<u64>), ids: &[String]) -> Request {
    let mut query = String::new();
    if let Some(skip) = skip {
        query = format!("$skip={skip}&");
    }
    if let Some(top) = top {
        query = format!("{query}%24top={top}");
    }
    let body = serde_json::json!({ "ScanDefinitionIds": ids }).to_string();
    Request::parse(endpoint, Some(&query), body.as_bytes()).unwrap()
}

proptest! {
    #[test]
    fn order_duplicates_space_and_guid_case_do_not_matter(
        endpoint in endpoint(), options in options(), ids in ids(), again in any::<proptest::sample::Index>(),
    ) {
        let one = request(endpoint, options, &ids);
        let mut other: Vec<String> = ids.iter().rev().map(|id| format!("\t{id} ")).collect();
        other.push(other[again.index(other.len())].clone());
        for id in &mut other {
            if crate::scan::ids::Guid::read(id.trim().as_bytes()).is_some() {
                *id = id.to_uppercase();
            }
        }
        let other = request(endpoint, options, &other);
        prop_assert_eq!(one.key(), other.key());
        prop_assert_eq!(one.body(), other.body());
    }

    #[test]
    fn different_requests_have_different_keys(
        one in (endpoint(), options(), ids()), other in (endpoint(), options(), ids()),
    ) {
        let canonical = |(endpoint, options, ids): &(Endpoint, (Option<u32>, Option<u64>), Vec<String>)| {
            let request = request(*endpoint, *options, ids);
            let ids: Vec<String> = request.ids().map(str::to_owned).collect();
            (request, *endpoint, *options, ids)
        };
        let (one, other) = (canonical(&one), canonical(&other));
        prop_assert_eq!(
            one.0.key() == other.0.key(),
            (one.1, one.2, &one.3) == (other.1, other.2, &other.3)
        );
    }

    #[test]
    fn the_body_sent_is_read_back_as_the_same_request(endpoint in endpoint(), options in options(), ids in ids()) {
        let one = request(endpoint, options, &ids);
        let other = Request::parse(endpoint, one.query().as_deref(), &one.body()).unwrap();
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(other.ids().len(), other.ids().count());
        let mut sorted: Vec<_> = one.ids().collect();
        sorted.sort_unstable();
        sorted.dedup();
        prop_assert_eq!(sorted, one.ids().collect::<Vec<_>>());
        if one.is_plain() {
            prop_assert_eq!(Request::plain(endpoint, one.ids()).unwrap(), other);
        }
    }

    #[test]
    fn no_body_makes_the_parser_panic(query in ".{0,40}", body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Request::parse(Endpoint::HISTORY, Some(&query), &body);
    }
}

#[test]
fn pieces_cannot_flow_into_each_other() {
    let key = |ids: &[&str]| {
        Request::plain(Endpoint::HISTORY, ids.iter().copied())
            .unwrap()
            .key()
            .clone()
    };
    assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    assert_ne!(key(&["a\0b"]), key(&["a", "b"]));
    assert_ne!(key(&["a"]), key(&["a", "\u{1}"]));
}

#[test]
fn the_query_of_a_link_is_passed_on_as_it_is_and_makes_another_request() {
    let request =
        |query: &str| Request::parse(Endpoint::HISTORY_V1, Some(query), br#"{"ScanDefinitionIds":["b","a"]}"#).unwrap();
    let queries = [
        "$skiptoken=a",
        "$skiptoken=b",
        "%24skipToken=a&x=%2F'",
        "$top=2&$skiptoken=a",
        "$top=2",
        "",
    ];
    for (nth, query) in queries.iter().enumerate() {
        let one = request(query);
        assert_eq!(one.query().as_deref(), Some(*query).filter(|query| !query.is_empty()));
        assert_eq!(one.ids().collect::<Vec<_>>(), ["a", "b"], "{query}");
        assert_eq!(one.is_plain(), query.is_empty(), "{query}");
        for other in &queries[..nth] {
            assert_ne!(one.key(), request(other).key(), "{query} {other}");
        }
    }
    let held = request("$skiptoken=a").with_token(CallerToken::new("t").unwrap());
    assert_eq!(held.ids().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn the_same_request_with_another_token_is_another_request() {
    let plain = || Request::plain(Endpoint::HISTORY, ["b", "a"]).unwrap();
    let with = |token| plain().with_token(CallerToken::new(token).unwrap());
    assert_eq!(with("one"), with("one"));
    assert_ne!(with("one"), with("two"));
    assert_ne!(with("one"), plain());
    assert_eq!(with("one").ids().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(with("one").body(), plain().body());
    assert!(plain().is_plain() && !with("one").is_plain());
    assert_eq!(with("one").caller_token().unwrap().secret().expose(), "one");
    let shown = format!("{:?}", with("hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn tenant_and_app_are_part_of_the_shared_key() {
    let request = Request::plain(Endpoint::HISTORY_V1, ["a"]).unwrap();
    let digest = |tenant, app| request.key().digest(&Namespace::new(tenant, app));
    assert_eq!(digest("t", "a"), digest("t", "a"));
    assert_ne!(digest("t", "a"), digest("a", "t"));
    assert_ne!(digest("ta", ""), digest("t", "a"));
    assert_eq!(request.key().short().len(), 12);
}

#[test]
fn lists_and_entities_are_told_apart_by_path_and_query_and_have_no_body() {
    use crate::scan::{Operation, route};
    let get = |path: &str, query| Request::get(&route(path).unwrap(), query).unwrap();
    let list = "/api/DeviceAuthenticatedScanDefinitions";
    let entity = "/api/DeviceAuthenticatedScanDefinitions/7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F";
    let agent = "/api/DeviceAuthenticatedScanAgents/7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f";
    let odd = "/api/v1.0/DeviceAuthenticatedScanAgents/a%20b%2B1";
    let all = [
        get(list, None),
        get(list, Some("pagesize=100")),
        get(list, Some("pageSize=100")),
        get(list, Some("$filter=scanType%20eq%20'Network'&x=1&x=2")),
        get("/api/v1.0/DeviceAuthenticatedScanDefinitions", None),
        get("/api/DeviceAuthenticatedScanAgents", None),
        get(entity, None),
        get(entity, Some("$select=id")),
        get(agent, None),
        get(odd, None),
    ];
    for (nth, one) in all.iter().enumerate() {
        assert!(all[..nth].iter().all(|other| other.key() != one.key()), "{one:?}");
        assert!(one.body().is_empty() && !one.is_plain() && !one.is_whole());
    }
    assert_eq!(all[0], get(list, Some("")));
    assert_eq!(all[3].query().unwrap(), "$filter=scanType%20eq%20'Network'&x=1&x=2");
    assert_eq!(
        all[6],
        get(
            &entity
                .to_lowercase()
                .replace("/api/deviceauthenticatedscandefinitions", list),
            None
        )
    );
    assert_eq!(
        all[6].upstream_path(),
        entity.replace(
            "7E8DA3A5-90E9-4E22-AC1A-9B3D9A3B1D0F",
            "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f"
        )
    );
    assert_eq!(all[9].upstream_path(), odd);
    assert_eq!(all[0].ids().len(), 0);
    assert_eq!(all[6].ids().len(), 1);
    let body = route("/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryBySessionId").unwrap();
    assert_eq!(body.endpoint.operation, Operation::HistoryBySession);
    assert_eq!(Request::get(&body, None), Err(ParseError::Empty("SessionIds")));
    let asked = Request::parse(body.endpoint, None, br#"{"SessionIds":"a"}"#).unwrap();
    assert_eq!(asked.body(), r#"{"SessionIds":["a"]}"#);
    let wrong = Request::parse(body.endpoint, None, br#"{"ScanDefinitionIds":["a"]}"#).unwrap_err();
    assert_eq!(wrong.target(), Some("ScanDefinitionIds"));
}
