use bytes::Bytes;
use defender_gateway::scan::{Endpoint, Request, Rows};

/// `query`, a line feed, the body: what is accepted is sent upstream as the same question, and nothing panics.
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

/// Two lists of ids, a line each, parted by an empty line: their keys are equal exactly when their canonical ids are, and order,
/// repetition and space do not matter.
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

/// An answer to a question for `a`, `b` and a GUID: what can be taken apart can be put together again, byte for byte.
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
