use bytes::Bytes;
use defender_gateway::testing::scan::{Endpoint, Operation, Request, Rows, UpstreamResponse, route};

/// `query`, a line feed, the body: what is accepted is sent upstream as the same request, and
/// nothing panics.
pub(crate) fn request(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == b'\n');
    let (query, body) = at.map_or((None, data), |at| {
        (std::str::from_utf8(&data[..at]).ok(), &data[at + 1..])
    });
    let Ok(request) = Request::parse(Endpoint::HISTORY, query, body) else {
        return;
    };
    assert!((1..=Request::MAX_IDS).contains(&request.ids().len()));
    assert!(
        request
            .ids()
            .all(|id| !id.is_empty() && id.len() <= Request::MAX_ID_BYTES)
    );
    let sent = Request::parse(Endpoint::HISTORY, request.query().as_deref(), &request.body());
    assert_eq!(sent.expect("what is sent is good").key(), request.key());
    assert_eq!(request.upstream_path(), Endpoint::HISTORY.template());
}

/// Two lists of ids, a line each, parted by an empty line: their keys are equal exactly when their
/// canonical ids are, and order, repetition and space do not matter.
pub(crate) fn key(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (one, other) = text.split_once("\n\n").unwrap_or((&text, ""));
    let read = |list: &str| Request::plain(Endpoint::HISTORY, list.lines()).ok();
    let (Some(one_read), other_read) = (read(one), read(other)) else {
        return;
    };
    let ids: Vec<String> = one_read.ids().map(Into::into).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "sorted, each once: {ids:?}");
    let shuffled: Vec<String> = ids.iter().rev().chain(&ids).map(|id| format!(" {id} ")).collect();
    let again = Request::plain(Endpoint::HISTORY, shuffled.iter().map(String::as_str));
    // Twice as many may be too many to read.
    if let Ok(again) = again {
        assert_eq!(again.key(), one_read.key());
    }
    if let Some(other_read) = other_read {
        let same = one_read.ids().eq(other_read.ids());
        assert_eq!(one_read.key() == other_read.key(), same, "{ids:?}");
    }
}

/// An answer to a request for `a`, `b` and a GUID: what can be taken apart can be put together
/// again, byte for byte.
pub(crate) fn split(data: &[u8]) {
    let ids = ["a", "b", "7e8da3a5-90e9-4e22-ac1a-9b3d9a3b1d0f"];
    let request = Request::plain(Endpoint::HISTORY, ids).expect("three good ids");
    let body = Bytes::copy_from_slice(data);
    let Ok(rows) = Rows::split(&request, &body) else {
        return;
    };
    assert_eq!(rows.only(|_| true), body);
    let (before, after) = rows.envelope();
    assert_eq!(rows.only(|_| false), [before, after].concat());
    let mut total = 0;
    for id in 0..ids.len() {
        let part = rows.only(|of| of == id);
        let alone = Rows::split(&request, &part).expect("a part is as good as the whole");
        assert!(alone.iter().all(|(of, ..)| of == id));
        total += alone.len();
    }
    assert_eq!(total, rows.len());
}

/// A path, a line feed, a query: what is routed is asked upstream at the path of an operation, with
/// a method that changes nothing, and what is sent there is routed to the same request.
pub(crate) fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, query) = text.split_once('\n').unwrap_or((&text, ""));
    let Some(target) = route(path) else { return };
    assert!(!path.to_lowercase().contains("batchdelete") || target.id.is_some());
    let Ok(request) = Request::get(&target, Some(query)) else {
        return;
    };
    let sent = request.upstream_path();
    let (fixed, _) = target.endpoint.operation.declaration().fixed_path();
    let rest = sent.split_once(fixed).expect("the path of the operation").1;
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    assert!(
        !rest.contains(['/', '\\', ';', '?', '#']) && !["", ".", ".."].contains(&rest) || target.id.is_none(),
        "{sent}"
    );
    let again = route(&sent).expect("what is sent is an operation");
    assert_eq!(again.endpoint, target.endpoint);
    assert_eq!(
        Request::get(&again, request.query().as_deref()).expect("good").key(),
        request.key()
    );
}

/// The body of a list of definitions: nothing that may hold credentials is left, and JSON stays
/// JSON with every other value as it was.
pub(crate) fn secrets(data: &[u8]) {
    let endpoint = Endpoint::latest(Operation::Definitions);
    let answer = UpstreamResponse {
        status: http::StatusCode::OK,
        headers: http::HeaderMap::new().into(),
        body: Bytes::copy_from_slice(data),
    };
    let clean = answer.without_secrets(endpoint);
    assert!(!clean.may_hold_secrets(endpoint));
    let (Ok(before), Ok(after)) = (
        serde_json::from_slice::<serde_json::Value>(data),
        serde_json::from_slice::<serde_json::Value>(&clean.body),
    ) else {
        return;
    };
    assert_eq!(without(before), after);
}

/// The value with null for the members that may hold credentials.
fn without(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Array(list) => list.into_iter().map(without).collect(),
        Value::Object(members) => {
            let members = members.into_iter().map(|(name, value)| {
                let is_secret = name.eq_ignore_ascii_case("scanAuthenticationParams");
                let value = if is_secret { Value::Null } else { without(value) };
                (name, value)
            });
            Value::Object(members.collect())
        }
        other => other,
    }
}
