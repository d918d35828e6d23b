use super::*;
use crate::scan::UpstreamProfile;
use tokio::time::{advance, sleep};

/// An answer with two rows for each id; `version` tells different ones apart.
fn body(ids: &[String], version: u32) -> Vec<u8> {
    let row = |id: &String, n| format!(r#"{{"ScanDefinitionIds":"{id}","n":"{version}-{n}"}}"#);
    let rows: Vec<_> = (0..2).flat_map(|n| ids.iter().map(move |id| row(id, n))).collect();
    format!(r#"{{"value":[{}]}}"#, rows.join(",")).into_bytes()
}

fn id(n: usize) -> String {
    format!("id{n:03}")
}

fn rows(request: &Request, body: Vec<u8>) -> Rows {
    Rows::split(request, &body.into()).unwrap()
}

/// Requests for one id each, asked alone.
struct Traffic {
    profile: UpstreamProfile,
    requests: Vec<(Vec<String>, Arc<Request>)>,
}

impl Traffic {
    fn new(requests: impl IntoIterator<Item = Vec<String>>) -> Self {
        let request = |ids: &Vec<String>| Request::plain(Endpoint::HISTORY, ids.iter().map(String::as_str)).unwrap();
        Self {
            profile: UpstreamProfile::new(0),
            requests: requests
                .into_iter()
                .map(|ids| (ids.clone(), Arc::new(request(&ids))))
                .collect(),
        }
    }

    fn single(count: usize) -> Self {
        Self::new((0..count).map(|n| vec![id(n)]))
    }

    fn evidence(&self) -> &MergeEvidence {
        self.profile.merge_evidence()
    }

    /// Every request is asked alone now.
    fn ask(&self, version: u32) {
        for (ids, request) in &self.requests {
            let body = body(ids, version);
            let rows = rows(request, body.clone());
            self.evidence().observe(request, &rows, &body, Instant::now());
        }
    }

    /// Time passes, in which every request is asked alone each minute.
    async fn pass(&self, minutes: u32, version: u32) {
        for _ in 0..minutes {
            self.ask(version);
            sleep(Duration::from_mins(1)).await;
        }
    }

    async fn comparison(&self) -> Comparison {
        for _ in 0..10 {
            if let Some(comparison) = self.evidence().begin_comparison(Endpoint::HISTORY, 100) {
                self.evidence().record_call(&comparison);
                return comparison;
            }
            self.pass(1, 0).await;
        }
        panic!("no comparison call: {}", self.evidence().findings()[0]);
    }

    fn end(&self, comparison: &Comparison, answer: Result<u32, SplitError>) {
        let ids: Vec<String> = comparison.request.ids().map(str::to_owned).collect();
        let rows = answer.map(|version| rows(&comparison.request, body(&ids, version)));
        let rows = rows.as_ref().map_err(|split_error| *split_error);
        self.evidence().end_comparison(comparison, rows, |_, _| true);
    }

    fn record(&self) -> MergeRecord {
        self.evidence().findings()[0].record
    }

    /// Proves all that there is to prove.
    async fn prove(&self) {
        for _ in 0..2 {
            let comparison = self.comparison().await;
            self.end(&comparison, Ok(0));
            sleep(Duration::from_secs(1)).await;
            self.ask(0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_calls_that_confirm_answers_are_enough_for_requests_of_one_id() {
    let traffic = Traffic::single(12);
    let comparison = traffic.comparison().await;
    assert_eq!(comparison.request.ids().len(), 12);
    traffic.end(&comparison, Ok(0));
    assert!(
        traffic.evidence().begin_comparison(Endpoint::HISTORY, 100).is_none(),
        "one at a time"
    );
    sleep(Duration::from_secs(1)).await;
    traffic.ask(0);
    assert_eq!((traffic.record().answers, traffic.record().confirmed_calls), (12, 1));
    assert!(!traffic.evidence().is_proven(Endpoint::HISTORY), "it may be chance");
    let comparison = traffic.comparison().await;
    traffic.end(&comparison, Ok(0));
    sleep(Duration::from_secs(1)).await;
    traffic.ask(0);
    assert!(traffic.evidence().is_proven(Endpoint::HISTORY));
    assert!(
        !traffic.evidence().is_proven(Endpoint::HISTORY_V1),
        "versions are apart"
    );
    let several = Request::plain(Endpoint::HISTORY, ["a", "b"]).unwrap();
    assert!(!traffic.profile.may_merge(&several), "no rows of two ids were compared");
    assert!(traffic.profile.may_merge(&traffic.requests[0].1));
    assert_eq!(
        (traffic.record().calls, traffic.record().ids, traffic.record().rows),
        (2, 12, 24)
    );
}

#[tokio::test(start_paused = true)]
async fn requests_for_several_ids_prove_that_their_rows_mix_in_one_way() {
    let traffic = Traffic::new((0..12).map(|n| vec![id(2 * n), id(2 * n + 1)]));
    traffic.prove().await;
    let several = Request::plain(Endpoint::HISTORY, ["a", "b"]).unwrap();
    assert!(traffic.profile.may_merge(&several));
    assert_eq!(traffic.record().mixed_pairs, traffic.record().pairs);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_changed_shows_nothing() {
    let traffic = Traffic::single(12);
    let comparison = traffic.comparison().await;
    // The rows change before the comparison call, or after it.
    traffic.end(&comparison, Ok(1));
    sleep(Duration::from_secs(1)).await;
    traffic.ask(1);
    assert_eq!((traffic.record().answers, traffic.record().contradictions), (0, 0));
    // An answer that may be older than the comparison call's shows nothing either.
    traffic.pass(2, 0).await;
    let comparison = traffic.comparison().await;
    let asked = Instant::now();
    advance(Duration::from_secs(1)).await;
    traffic.end(&comparison, Ok(7));
    let (ids, request) = &traffic.requests[0];
    let answer = body(ids, 0);
    let rows = rows(request, answer.clone());
    traffic.evidence().observe(request, &rows, &answer, asked);
    assert_eq!(traffic.record().contradictions, 0);
    advance(Duration::from_secs(1)).await;
    traffic.evidence().observe(request, &rows, &answer, Instant::now());
    assert_eq!(traffic.record().contradiction, Some(SplitError::Different));
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_is_looked_at_again_ever_later_and_ten_calls_are_the_end() {
    let traffic = Traffic::single(12);
    let mut pauses = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_hours(24 * 30) {
        traffic.ask(0);
        if let Some(comparison) = traffic.evidence().begin_comparison(Endpoint::HISTORY, 100) {
            traffic.evidence().record_call(&comparison);
            traffic.end(&comparison, Err(SplitError::NextLink));
            pauses.extend(
                traffic.evidence().findings()[0]
                    .pause
                    .map(|pause| pause.as_secs() / 3600),
            );
        }
        sleep(Duration::from_mins(4)).await;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64]);
    let finding = traffic.evidence().findings()[0];
    assert!(finding.record.calls <= MergeRecord::MOST_CALLS && finding.record.is_exhausted());
    assert!(finding.to_string().ends_with("and no more are made"), "{finding}");
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_while_a_comparison_call_is_under_way_pauses_for_as_long() {
    let traffic = Traffic::single(12);
    let comparison = traffic.comparison().await;
    let contradicted = MergeRecord {
        revision: 9,
        contradictions: 1,
        contradiction: Some(SplitError::Different),
        ..MergeRecord::default()
    };
    traffic.profile.adopt_merge_record(Endpoint::HISTORY, contradicted);
    traffic.end(&comparison, Ok(0));
    assert_eq!(traffic.evidence().findings()[0].pause, Some(FIRST_PAUSE));
}

#[tokio::test(start_paused = true)]
async fn a_second_refusal_in_a_row_is_a_contradiction_and_a_failure_is_none() {
    let traffic = Traffic::single(12);
    for (answer, contradictions) in [
        (SplitError::Failed, 0),
        (SplitError::Refused, 0),
        (SplitError::Failed, 0),
        (SplitError::Refused, 0),
        (SplitError::Refused, 1),
    ] {
        let comparison = traffic.comparison().await;
        traffic.end(&comparison, Err(answer));
        assert_eq!(traffic.record().contradictions, contradictions, "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_speaks_against_merging_takes_back_what_was_proven() {
    let traffic = Traffic::single(12);
    traffic.evidence().contradict(Endpoint::HISTORY, SplitError::FullPage);
    assert!(traffic.evidence().findings().is_empty(), "nothing was proven");
    traffic.prove().await;
    traffic.evidence().contradict(Endpoint::HISTORY, SplitError::FullPage);
    assert!(!traffic.evidence().is_proven(Endpoint::HISTORY));
    assert_eq!(traffic.record().contradiction, Some(SplitError::FullPage));
}

#[tokio::test(start_paused = true)]
async fn the_later_of_two_records_holds_and_a_contradiction_is_later() {
    let traffic = Traffic::single(12);
    traffic.prove().await;
    let proven = traffic.record();
    let other = UpstreamProfile::new(0);
    other.adopt_merge_record(Endpoint::HISTORY, proven);
    assert!(other.merge_evidence().is_proven(Endpoint::HISTORY));
    assert!(other.takes(Endpoint::HISTORY, 12) && !other.takes(Endpoint::HISTORY, 13));
    assert_eq!(other.longest(Endpoint::HISTORY), 24);
    traffic.evidence().contradict(Endpoint::HISTORY, SplitError::Different);
    let contradicted = traffic.record();
    other.adopt_merge_record(Endpoint::HISTORY, contradicted);
    other.adopt_merge_record(Endpoint::HISTORY, proven);
    assert!(!other.merge_evidence().is_proven(Endpoint::HISTORY));
    let later = MergeRecord {
        revision: proven.revision + 9,
        ..proven
    };
    other.adopt_merge_record(Endpoint::HISTORY, later);
    assert!(!other.merge_evidence().is_proven(Endpoint::HISTORY));
    let text = serde_json::to_string(&contradicted).unwrap();
    assert_eq!(serde_json::from_str::<MergeRecord>(&text).unwrap(), contradicted);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_compared_without_a_lease_once_there_are_leases() {
    let traffic = Traffic::single(12);
    traffic.evidence().lease_until(Instant::now());
    traffic.pass(10, 0).await;
    assert!(traffic.evidence().begin_comparison(Endpoint::HISTORY, 100).is_none());
    traffic.evidence().lease_until(Instant::now() + Duration::from_mins(10));
    traffic.comparison().await;
}

#[tokio::test(start_paused = true)]
async fn so_many_requests_are_remembered() {
    let traffic = Traffic::single(1000);
    traffic.pass(3, 0).await;
    assert!(
        traffic.evidence().begin_comparison(Endpoint::HISTORY, 10_000).is_none(),
        "they are gathered"
    );
    traffic.pass(2, 0).await;
    let comparison = traffic.comparison().await;
    assert!(comparison.request.ids().len() <= 100);
    let all = traffic.evidence().lock()[Endpoint::HISTORY.index()].seen_answers.len();
    assert_eq!(all, 256);
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn count(&self, text: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).matches(text).count()
    }
}

#[tokio::test(start_paused = true)]
async fn one_line_says_that_merging_begins_and_one_that_it_ends_and_why() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let traffic = Traffic::single(12);
    traffic.prove().await;
    traffic.ask(0);
    assert_eq!(lines.count("requests are merged from now on"), 1);
    assert_eq!(lines.count("requests are not merged"), 0);
    traffic.evidence().contradict(Endpoint::HISTORY, SplitError::Different);
    assert_eq!(
        lines.count("requests are not merged: together the same ids were answered otherwise"),
        1
    );
    assert_eq!(lines.count("reason=\"different\""), 1);
}
