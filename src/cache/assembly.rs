//! Joins fragments to an answer.

use std::time::Duration;
use std::{cmp, sync::Arc};

use bytes::Bytes;
use http::{StatusCode, header};
use tokio::time::Instant;

use crate::cache::fragment::{Fragment, Origin, RowRef, Spacing};
use crate::scan::{Ordering, Request, SplitError, UpstreamProfile, UpstreamResponse};

/// An answer joined from fragments. It is as old as its oldest fragment, and fresh until the first
/// fragment is stale.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) answer: UpstreamResponse,
    pub(super) asked: Instant,
    pub(super) stored: Instant,
    pub(super) ttl: Duration,
}

impl Assembled {
    /// Joins the fragments of all ids of a request, in the order of the ids.
    ///
    /// # Errors
    ///
    /// The reason why it is not certain that the upstream would give the same answer.
    pub(super) fn new(
        request: &Request,
        fragments: &[Arc<Fragment>],
        upstream_profile: &UpstreamProfile,
    ) -> Result<Self, SplitError> {
        let newest = fragments
            .iter()
            .map(|fragment| fragment.origin())
            .max_by_key(|source| source.asked)
            .ok_or(SplitError::Shape)?;
        if fragments.iter().any(|fragment| !alike(fragment.origin(), newest)) {
            return Err(SplitError::Shape);
        }
        let endpoint = request.endpoint();
        if !upstream_profile.fits(request, fragments.iter().map(|fragment| fragment.len()).sum()) {
            // An answer with as many rows might be cut off.
            return Err(SplitError::Longest);
        }
        let mut rows: Vec<(usize, RowRef<'_>)> = Vec::new();
        for (id, fragment) in fragments.iter().enumerate() {
            rows.extend(fragment.rows().map(|row| (id, row)));
        }
        sort(&mut rows, || upstream_profile.ordering(endpoint))?;
        let sources = || fragments.iter().map(|fragment| fragment.origin());
        // The layout of the newest answer in which it can be seen.
        let spaced = sources().filter(|source| source.spacing.is_some());
        let spacing = spaced.max_by_key(|source| source.asked);
        let spacing = spacing.and_then(|source| source.spacing.as_deref());
        // Where none of them shows what separates two rows, an earlier answer has shown it:
        // otherwise the order of rows would not be known.
        let shown = spacing.and_then(|spacing| spacing.between.clone());
        let between = shown
            .or_else(|| upstream_profile.between(endpoint))
            .unwrap_or_else(|| b",".as_slice().into());
        let stored = sources().map(|source| source.stored).min().unwrap_or(newest.stored);
        let fresh_until = fragments.iter().map(|fragment| fragment.fresh_until()).min();
        Ok(Self {
            answer: UpstreamResponse {
                status: StatusCode::OK,
                headers: newest.headers.clone(),
                body: body(newest, spacing, &between, &rows),
            },
            asked: sources().map(|source| source.asked).min().unwrap_or(newest.asked),
            stored,
            ttl: fresh_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(stored)),
        })
    }
}

/// Whether two answers have the same envelope and content type. Other header fields, such as
/// `Date`, belong to the time of an answer and not to its content.
fn alike(one: &Origin, other: &Origin) -> bool {
    one.before == other.before
        && one.after == other.after
        && one.headers.get(header::CONTENT_TYPE) == other.headers.get(header::CONTENT_TYPE)
}

fn body(envelope: &Origin, spacing: Option<&Spacing>, between: &[u8], rows: &[(usize, RowRef<'_>)]) -> Bytes {
    // Without rows there is no space between the brackets either.
    let spacing = spacing.filter(|_| !rows.is_empty());
    let (before, after): (&[u8], &[u8]) = spacing.map_or((b"", b""), |spacing| (&spacing.before, &spacing.after));
    let text: usize = rows.iter().map(|(_, row)| row.text.len() + between.len()).sum();
    let around = envelope.before.len() + before.len() + after.len() + envelope.after.len();
    let mut body = Vec::with_capacity(around + text);
    body.extend_from_slice(&envelope.before);
    body.extend_from_slice(before);
    for (nth, (_, row)) in rows.iter().enumerate() {
        if nth > 0 {
            body.extend_from_slice(between);
        }
        body.extend_from_slice(row.text);
    }
    body.extend_from_slice(after);
    body.extend_from_slice(&envelope.after);
    body.into()
}

/// Sorts rows as the upstream would: rows of one answer as they were there, rows of several answers
/// in the learned order.
fn sort(
    rows: &mut [(usize, RowRef<'_>)],
    learned: impl FnOnce() -> Result<Ordering, SplitError>,
) -> Result<(), SplitError> {
    rows.sort_unstable_by_key(|(_, row)| row.at);
    if rows.windows(2).all(|pair| pair[0].1.at.0 == pair[1].1.at.0) {
        return Ok(());
    }
    let ordering = learned()?;
    let compare = |one: &(usize, RowRef<'_>), other: &(usize, RowRef<'_>)| {
        ordering.compare((one.0, one.1.time), (other.0, other.1.time))
    };
    // Every row must be comparable, and no answer's own order may contradict the learned order.
    for pair in rows.windows(2) {
        let same_answer = pair[0].1.at.0 == pair[1].1.at.0;
        match compare(&pair[0], &pair[1]) {
            None => return Err(SplitError::Order),
            Some(cmp::Ordering::Greater) if same_answer => return Err(SplitError::Order),
            Some(_) => {}
        }
    }
    rows.sort_by(|one, other| {
        compare(one, other)
            .unwrap_or(cmp::Ordering::Equal)
            .then(one.1.at.cmp(&other.1.at))
    });
    // The order of two equal rows from different answers is unknown.
    let tied = rows
        .windows(2)
        .any(|pair| pair[0].1.at.0 != pair[1].1.at.0 && compare(&pair[0], &pair[1]) == Some(cmp::Ordering::Equal));
    if tied { Err(SplitError::Order) } else { Ok(()) }
}
