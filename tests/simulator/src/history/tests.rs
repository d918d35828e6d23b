use serde_json::Value;

use super::rows::Page;
use super::*;

const A: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const B: &str = "bbbbbbbb-0000-4000-8000-000000000002";

fn documented() -> History {
    History {
        casing: Casing::Documented,
        ..History::default()
    }
}

fn rows(history: &History, ids: &[&str]) -> Vec<Value> {
    page(history, ids, None, 0).rows
}

fn page(history: &History, ids: &[&str], top: Option<usize>, skip: usize) -> Page {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    history.page(By::Definition, (1, 0), &ids, top, skip).unwrap()
}

fn names<'a>(rows: &'a [Value], key: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[key].as_str().unwrap()).collect()
}

#[test]
fn the_same_id_has_the_same_rows_and_others_have_others() {
    let history = History::default();
    let a = rows(&history, &[A]);
    assert!((2..=5).contains(&a.len()));
    assert_eq!(a, rows(&history, &[A]));
    assert_ne!(a[0]["scannerId"], rows(&history, &[B])[0]["scannerId"]);
    assert_ne!(
        a,
        history.page(By::Definition, (2, 0), &[A.into()], None, 0).unwrap().rows
    );
}

#[test]
fn documented_rows_have_the_documented_form() {
    for row in rows(&documented(), &[A]) {
        let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["LastScanned", "ScanDefinitionIds", "ScanStatus", "ScannerId"]);
        assert_eq!(row["ScanDefinitionIds"], A);
        assert_eq!(row["ScannerId"].as_str().unwrap().len(), 40);
        let scanned = row["LastScanned"].as_str().unwrap();
        assert_eq!(scanned.len(), "2026-10-31T20:14:05.1234567Z".len(), "{scanned}");
        assert!(scanned.parse::<jiff::Timestamp>().is_ok());
    }
}

#[test]
fn times_lose_the_zeros_of_their_fraction_if_that_is_chosen() {
    let trimmed = History {
        trimmed_times: true,
        ..documented()
    };
    let ids: Vec<_> = (0..50)
        .map(|n| format!("{n:08x}-0000-4000-8000-000000000001"))
        .collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let (as_usual, trimmed) = (rows(&documented(), &ids), rows(&trimmed, &ids));
    let times = |rows: &[Value]| {
        names(rows, "LastScanned")
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let (as_usual, trimmed) = (times(&as_usual), times(&trimmed));
    assert!(trimmed.iter().any(|time| time.len() < as_usual[0].len()), "{trimmed:?}");
    for (time, trimmed) in as_usual.iter().zip(&trimmed) {
        assert!(!trimmed.ends_with("0Z") || !trimmed.contains('.'), "{trimmed}");
        let parsed = |time: &str| time.parse::<jiff::Timestamp>().unwrap();
        assert_eq!(parsed(time), parsed(trimmed));
    }
}

#[test]
fn rows_have_the_services_own_camel_case_and_no_last_scanned() {
    for row in rows(&History::default(), &[A]) {
        assert_eq!(row["scanDefinitionId"], A);
        assert!(row.get("lastScanned").is_none());
        let targets = row["scannedTargets"].as_array().unwrap();
        assert_eq!(row["numberOfTargets"], targets.len());
        let good = targets
            .iter()
            .filter(|target| target["scanStatus"] == "Success")
            .count();
        assert_eq!(row["numberOfSuccessfullyScannedTargets"], good);
    }
}

#[test]
fn rows_come_in_the_order_chosen() {
    let newest = rows(&documented(), &[B, A]);
    let mut times = names(&newest, "LastScanned");
    times.reverse();
    assert!(times.is_sorted());
    let ids = names(&newest, "ScanDefinitionIds");
    assert!(
        !ids.is_sorted() && !ids.iter().rev().is_sorted(),
        "rows of two ids mix: {ids:?}"
    );

    let order = |order| {
        let history = History { order, ..documented() };
        let mut ids: Vec<String> = names(&rows(&history, &[B, A]), "ScanDefinitionIds")
            .iter()
            .map(ToString::to_string)
            .collect();
        ids.dedup();
        ids
    };
    assert_eq!(order(Order::AsRequested), [B, A]);
    assert_eq!(order(Order::ById), [A, B]);
}

#[test]
fn ids_match_as_chosen() {
    let upper = A.to_ascii_uppercase();
    let ignoring = History::default();
    assert_eq!(rows(&ignoring, &[&upper]), rows(&ignoring, &[A]));
    assert_eq!(rows(&ignoring, &[&upper, A]), rows(&ignoring, &[A]));
    let exact = History {
        matching: Matching::Exact,
        ..History::default()
    };
    assert!(rows(&exact, &[&upper]).is_empty());
    let each = History {
        duplicates: Duplicates::Each,
        ..History::default()
    };
    assert_eq!(rows(&each, &[A, A]).len(), 2 * rows(&each, &[A]).len());
}

#[test]
fn unknown_ids_have_no_rows_or_fail_the_call() {
    for unknown in [
        "",
        "x",
        UNKNOWN_ID,
        "aaaaaaaa-0000-4000-8000-00000000000g",
        " aaaaaaaa-0000-4000-8000-000000000001",
    ] {
        assert!(rows(&History::default(), &[unknown]).is_empty(), "{unknown}");
        let strict = History {
            unknown: Unknown::NotFound,
            ..History::default()
        };
        assert_eq!(
            strict
                .page(By::Definition, (1, 0), &[A.into(), unknown.into()], None, 0)
                .err()
                .as_deref(),
            Some(unknown)
        );
    }
}

#[test]
fn top_and_skip_cut_the_list_of_rows() {
    let history = History::default();
    let all = rows(&history, &[A, B]);
    assert_eq!(page(&history, &[A, B], Some(2), 1).rows, all[1..3]);
    assert!(page(&history, &[A, B], None, all.len()).rows.is_empty());
    assert!(page(&history, &[A, B], None, usize::MAX).rows.is_empty());
    assert_eq!(page(&history, &[A, B], Some(10_000), 0).rows, all);
}

#[test]
fn pages_are_cut_and_linked() {
    let history = History {
        page_size: 2,
        ..History::default()
    };
    let first = page(&history, &[A, B], None, 0);
    assert_eq!((first.rows.len(), first.next), (2, Some(2)));
    let all = rows(&History::default(), &[A, B]);
    let (mut walked, mut next) = (Vec::new(), Some(0));
    while let Some(skip) = next {
        let page = page(&history, &[A, B], None, skip);
        walked.extend(page.rows);
        next = page.next;
    }
    assert_eq!(walked, all);
    assert_eq!(
        page(&history, &[A, B], Some(2), 0).next,
        None,
        "a piece that was asked for is whole"
    );
    let silent = History {
        next_link: NextLink::Absent,
        ..history
    };
    assert_eq!(page(&silent, &[A, B], None, 0).next, None);
}

#[test]
fn a_scan_adds_one_newer_row_and_keeps_the_others() {
    let history = History::default();
    let before = rows(&history, &[A]);
    let after = history.page(By::Definition, (1, 1), &[A.into()], None, 0).unwrap().rows;
    assert_eq!(after.len(), before.len() + 1);
    assert_eq!(after[1..], before);
}
