//! Putting an answer together from pieces.

use std::time::Duration;
use std::{cmp, sync::Arc};

use bytes::Bytes;
use http::{StatusCode, header};
use tokio::time::Instant;

use crate::cache::fragment::{Fragment, Origin, RowRef, Spacing};
use crate::scan::{Answer, Ordering, Request, SplitError, UpstreamProfile};

/// An answer put together, and how old it is: as old as its oldest piece, and fresh until the first of them is stale.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) answer: Answer,
    pub(super) asked: Instant,
    pub(super) stored: Instant,
    pub(super) ttl: Duration,
}

impl Assembled {
    /// Puts the pieces of all ids of a request together, in the order of the ids.
    ///
    /// # Errors
    ///
    /// The reason why it is not certain that the upstream would give the same answer.
    pub(super) fn new(
        request: &Request,
        pieces: &[Arc<Fragment>],
        upstream_profile: &UpstreamProfile,
    ) -> Result<Self, SplitError> {
        let newest = pieces
            .iter()
            .map(|fragment| fragment.source())
            .max_by_key(|source| source.asked)
            .ok_or(SplitError::Shape)?;
        if pieces.iter().any(|fragment| !alike(fragment.source(), newest)) {
            return Err(SplitError::Shape);
        }
        let endpoint = request.endpoint();
        if !upstream_profile.fits(request, pieces.iter().map(|fragment| fragment.len()).sum()) {
            // Alone, the request might have been cut off.
            return Err(SplitError::Longest);
        }
        let mut rows: Vec<(usize, RowRef<'_>)> = Vec::new();
        for (id, fragment) in pieces.iter().enumerate() {
            rows.extend(fragment.rows().map(|row| (id, row)));
        }
        sort(&mut rows, || upstream_profile.ordering(endpoint))?;
        let sources = || pieces.iter().map(|fragment| fragment.source());
        // As the newest answer writes it that shows it.
        let spaced = sources().filter(|source| source.spacing.is_some());
        let spacing = spaced.max_by_key(|source| source.asked);
        let spacing = spacing.and_then(|source| source.spacing.as_deref());
        // Where none of them shows what is between two rows, an answer before has: their order could not be known otherwise.
        let shown = spacing.and_then(|spacing| spacing.between.clone());
        let between = shown
            .or_else(|| upstream_profile.between(endpoint))
            .unwrap_or_else(|| b",".as_slice().into());
        let stored = sources().map(|source| source.stored).min().unwrap_or(newest.stored);
        let fresh_until = pieces.iter().map(|fragment| fragment.fresh_until()).min();
        Ok(Self {
            answer: Answer {
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

/// Whether two answers have the same envelope and type. Other fields, such as `Date`, tell when an answer was made, not what it is.
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

/// Sorts rows as the upstream would: those of one answer as they stood there, those of several in the order learned.
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
    // Every row must be comparable, and no answer's own order may contradict what is believed.
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
    // Which of two equal rows from different answers comes first, nobody knows.
    let tied = rows
        .windows(2)
        .any(|pair| pair[0].1.at.0 != pair[1].1.at.0 && compare(&pair[0], &pair[1]) == Some(cmp::Ordering::Equal));
    if tied { Err(SplitError::Order) } else { Ok(()) }
}
