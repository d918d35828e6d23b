//! Splitting the answer to a batch among its members, and pausing batching when that fails
//! repeatedly.

use std::collections::HashSet;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::BoxError;
use crate::scan::{Endpoint, Request, ResponseKind, Rows, SplitError, UpstreamResponse};
use crate::single_flight::batcher::{Batch, BatchWhen, Batcher, State};

/// After this many failed splits in a row batching is paused: the upstream does not answer in the
/// way that batching relies on.
const SPLIT_ERRORS: u32 = 3;

/// How long batching is paused. Then one more batch is tried, and one more failed split pauses it
/// again.
const PAUSE: Duration = Duration::from_mins(10);

impl Batcher {
    /// Splits the answer to a batch into rows.
    ///
    /// # Errors
    ///
    /// The reason why the members have to ask again.
    pub(super) fn split(&self, batch: &Batch, result: &Result<UpstreamResponse, BoxError>) -> Result<Rows, SplitError> {
        let rows = self.rows_of(&batch.request, result);
        // What was proven when the call left may have been contradicted since.
        let endpoint = batch.request.endpoint();
        let is_proven = || self.upstream_profile.merge_evidence().is_proven(endpoint);
        if self.merge.when == BatchWhen::Proven && rows.is_ok() && !is_proven() {
            return Err(SplitError::Different);
        }
        let mut state = self.state();
        state.sizes[endpoint.index()].record_result(rows.as_ref().err().copied(), Instant::now());
        match &rows {
            Ok(_) => {
                state.split_errors = 0;
                state.failed = false;
                if state.paused_until.take().is_some() {
                    tracing::info!("merging goes on: an answer could be taken apart again");
                    self.metrics.resume();
                }
            }
            Err(split_error) => {
                self.metrics.record_split_error(*split_error);
                match split_error {
                    // An answer that is longer than any before does not speak against batching, and
                    // earlier answers were not cut off by a page limit either.
                    SplitError::Longest => state.split_errors = 0,
                    // Each member may fail alone as well, which would say nothing about batching.
                    SplitError::Failed => state.failed = true,
                    _ => self.pause_if_repeated(&mut state, endpoint, *split_error),
                }
            }
        }
        rows
    }

    /// Records that a flight succeeded alone after a failed batch. If only the batch failed, that
    /// speaks against batching.
    pub(super) fn succeeded_alone(&self, endpoint: Endpoint) {
        let mut state = self.state();
        if std::mem::take(&mut state.failed) {
            self.pause_if_repeated(&mut state, endpoint, SplitError::Failed);
        }
    }

    fn pause_if_repeated(&self, state: &mut State, endpoint: Endpoint, split_error: SplitError) {
        state.split_errors += 1;
        if state.split_errors >= SPLIT_ERRORS {
            tracing::warn!(reason = split_error.as_str(), rest = ?PAUSE, "merging rests: answers could not be taken apart with certainty");
            let until = Instant::now() + PAUSE;
            state.paused_until = Some(until);
            self.metrics.pause(until, split_error);
            // After the pause, a single failed split pauses batching again.
            state.split_errors = SPLIT_ERRORS - 1;
            if self.merge.when == BatchWhen::Proven {
                self.upstream_profile.merge_evidence().contradict(endpoint, split_error);
            }
        }
    }

    fn rows_of(&self, request: &Request, result: &Result<UpstreamResponse, BoxError>) -> Result<Rows, SplitError> {
        let rows = attributed_rows(request, result)?;
        let complete = self.upstream_profile.complete(request.endpoint(), &rows);
        self.upstream_profile.learn(request, &rows);
        self.profile_changed.notify_waiters();
        complete.map(|()| rows)
    }
}

/// The rows of an answer, each with its id. Whether the answer may be cut off is not decided here.
pub(super) fn attributed_rows(
    request: &Request,
    result: &Result<UpstreamResponse, BoxError>,
) -> Result<Rows, SplitError> {
    let answer = result.as_ref().map_err(|_| SplitError::Failed)?;
    // A response that is no answer of the API, such as a proxy's error page, does not speak
    // against batching.
    let unless_rubbish = |split_error| match ResponseKind::of(request.endpoint(), answer) {
        ResponseKind::Answer => split_error,
        ResponseKind::Throttled | ResponseKind::Fault(_) => SplitError::Failed,
    };
    if answer.status != StatusCode::OK || !answer.may_be_json() {
        return Err(unless_rubbish(SplitError::Refused));
    }
    Rows::split(request, &answer.body).map_err(unless_rubbish)
}

/// Whether the id with this number among those of `whole` is one of `part`.
fn is_of(whole: &Request, part: &Request) -> impl Fn(usize) -> bool {
    let part: HashSet<&str> = part.ids().collect();
    let wanted: Vec<bool> = whole.ids().map(|id| part.contains(id)).collect();
    move |id| wanted.get(id) == Some(&true)
}

/// How many rows of the answer to `whole` belong to the ids of `part`.
pub(super) fn count_rows(whole: &Request, part: &Request, rows: &Rows) -> usize {
    let is_wanted = is_of(whole, part);
    rows.iter().filter(|(id, ..)| is_wanted(*id)).count()
}

/// The part of the answer to `whole` that answers `part`, whose ids are all among those of `whole`.
pub(super) fn split_for(whole: &Request, part: &Request, rows: &Rows, answer: &UpstreamResponse) -> UpstreamResponse {
    UpstreamResponse {
        body: rows.only(is_of(whole, part)),
        ..answer.clone()
    }
}
