//! What callers got, and what was wrong with it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Answer, Caller, body};

/// Complaints beyond these say nothing new.
const COMPLAINTS: usize = 20;

/// All answers of a run.
#[derive(Debug)]
pub(super) struct Tally {
    /// How much later than its deadline an answer may be with the caller: the call itself, the
    /// wire, and a busy machine.
    late: Duration,
    /// Statuses that are right.
    right: &'static [u16],
    /// Whether the upstream gives answers that are none, which are passed on as they are.
    garbled: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    asked: usize,
    hung_up: usize,
    /// By status; 0 where a connection ended that was allowed to.
    answers: BTreeMap<u16, usize>,
    garbled: usize,
    wrong: Vec<String>,
    slowest: Duration,
    /// The last refusal for each wait: whose it was, and when to come back.
    refused: BTreeMap<Duration, (String, Instant)>,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) caller: String,
    pub(super) wait: Duration,
    /// The caller leaves after this time.
    pub(super) leaves: Option<Duration>,
}

impl Tally {
    pub(super) fn new(late: Duration, right: &'static [u16]) -> Self {
        Self {
            late,
            right,
            garbled: false,
            inner: Mutex::default(),
        }
    }

    /// The same where the upstream may give answers that are none.
    pub(super) fn behind_rubbish(self) -> Self {
        Self { garbled: true, ..self }
    }

    /// Asks and notes what comes of it. `lost` says whether the gateway was killed since, so that
    /// no answer can be expected.
    pub(super) async fn ask(&self, caller: &Caller, request: Request, lost: impl Fn() -> bool) {
        let asked = Instant::now();
        self.inner.lock().unwrap().asked += 1;
        let sent = caller
            .history_request()
            .header("prefer", format!("wait={}", request.wait.as_secs()))
            .header("x-caller", &request.caller)
            .body(body(&[&request.id]))
            .unwrap();
        let answer = caller.try_send(sent);
        let answer = match request.leaves {
            Some(time) => tokio::time::timeout(time, answer).await,
            // Nobody may be left without an answer.
            None => match tokio::time::timeout(Duration::from_secs(30), answer).await {
                Ok(answer) => Ok(answer),
                Err(_) => Ok(Err("no answer in 30 s".into())),
            },
        };
        let took = asked.elapsed();
        let mut inner = self.inner.lock().unwrap();
        match answer {
            Err(_) => inner.hung_up += 1,
            Ok(Ok(answer)) => self.note(&mut inner, &request, &answer, took),
            Ok(Err(_)) if lost() => *inner.answers.entry(0).or_default() += 1,
            Ok(Err(error)) => inner.complain(format!("{request:?} after {took:?}: {error}")),
        }
    }

    fn note(&self, inner: &mut Inner, request: &Request, answer: &Answer, took: Duration) {
        let status = answer.status.as_u16();
        *inner.answers.entry(status).or_default() += 1;
        if !self.right.contains(&status) {
            inner.complain(format!("{request:?}: {status} {}", answer.text()));
        }
        if status == 200 {
            let is_garbled = serde_json::from_slice::<serde_json::Value>(&answer.body).is_err();
            if is_garbled && self.garbled {
                inner.garbled += 1;
            } else if is_garbled || answer.row_ids() != [request.id.clone()] {
                inner.complain(format!("{request:?}: not its answer: {}", answer.text()));
            }
        }
        if took > request.wait + self.late {
            inner.complain(format!("{request:?}: {status} after {took:?}"));
        }
        inner.slowest = inner.slowest.max(took.saturating_sub(request.wait));
        // An upstream's own 503 says what it likes; a 429 of its own nobody sees.
        let is_ours = status == 429 || answer.field("content-type") == "application/problem+json";
        if is_ours && matches!(status, 429 | 503) {
            match answer.retry_after() {
                None | Some(0) => inner.complain(format!("{request:?}: no time to come back: {answer:?}")),
                Some(seconds) if status == 429 => {
                    let back = Duration::from_secs(seconds);
                    let whose = (request.caller.clone(), Instant::now() + back);
                    inner.refused.insert(request.wait, whose);
                }
                Some(_) => {}
            }
        }
    }

    /// The one that was refused last for each wait: its caller, and when that was told to come back.
    pub(super) fn refused(&self) -> Vec<(Duration, String, Instant)> {
        let inner = self.inner.lock().unwrap();
        inner
            .refused
            .iter()
            .map(|(wait, (caller, back))| (*wait, caller.clone(), *back))
            .collect()
    }

    /// Answers with this status.
    pub(super) fn answers(&self, status: u16) -> usize {
        self.inner.lock().unwrap().answers.get(&status).copied().unwrap_or(0)
    }

    /// Fails when anything was wrong, or a request was neither answered nor given up.
    pub(super) fn assert_well(&self) {
        let inner = self.inner.lock().unwrap();
        assert!(inner.wrong.is_empty(), "{:#?}", inner.wrong);
        let answered: usize = inner.answers.values().sum();
        assert_eq!(
            answered + inner.hung_up,
            inner.asked,
            "each request has one answer: {inner:?}"
        );
    }

    /// In one line.
    pub(super) fn report(&self) -> String {
        let inner = self.inner.lock().unwrap();
        format!(
            "{} requests, {} callers hung up, answers by status {:?}, {} of them rubbish, the slowest {:?} after its deadline",
            inner.asked, inner.hung_up, inner.answers, inner.garbled, inner.slowest
        )
    }
}

impl Inner {
    fn complain(&mut self, what: String) {
        if self.wrong.len() < COMPLAINTS {
            self.wrong.push(what);
        }
    }
}
