//! Fragments: the rows of one id, stored apart from the answer that they came with; and how an
//! answer is joined from them.

use std::cmp;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicBool, AtomicU64};
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use tokio::time::Instant;

use crate::cache::entry::{ALLOCATION_BYTES, BUFFER_BYTES, slot_bytes};
use crate::cache::freshness::Age;
use crate::cache::metrics::Prefetched;
use crate::memory::Reservation;
use crate::scan::{Headers, Key, Layout, Ordering, Request, Rows, SplitError, UpstreamProfile, UpstreamResponse};

/// The rows of one id in one answer. An id without rows has a fragment too, because the upstream
/// said that there are none.
#[derive(Debug)]
pub(super) struct Fragment {
    source: Arc<Origin>,
    /// How long it is fresh after its answer came.
    ttl: Duration,
    /// The rows, one after the other.
    text: Box<[u8]>,
    rows: Box<[Row]>,
    prefetched: Option<Box<Unused>>,
    /// Its memory, once it is stored: requests that wait for other rows hold it for longer than the
    /// cache does.
    _memory: Option<Reservation>,
}

/// Counts on drop whether prefetched rows were used.
#[derive(Debug)]
struct Unused {
    counters: Prefetched,
    used: AtomicBool,
}

impl Drop for Unused {
    fn drop(&mut self) {
        if !*self.used.get_mut() {
            self.counters.unused.inc();
        }
    }
}

/// The answer that was cut into fragments.
#[derive(Debug)]
pub(super) struct Origin {
    number: u64,
    pub(super) asked: Instant,
    pub(super) stored: Instant,
    headers: Headers,
    /// The text before the rows, with the opening bracket, and the one after them.
    before: Bytes,
    after: Bytes,
    /// The text between rows. `None` when it is a comma without space, or is unknown because the
    /// answer has at most one row without space around it.
    layout: Option<Box<Layout>>,
}

/// A row's place in its fragment and in its answer. It is kept small, because there is one for
/// every row in the cache; answers are far shorter than 4 GiB.
#[derive(Debug)]
struct Row {
    position: u32,
    end: u32,
    /// Where its time begins and ends, from the beginning of the row; both are the same when it has
    /// none.
    time: (u32, u32),
}

/// A row that is being joined with others.
#[derive(Clone, Copy, Debug)]
struct RowRef<'a> {
    /// Its answer, and its position there.
    at: (u64, usize),
    time: Option<&'a [u8]>,
    text: &'a [u8],
}

impl Fragment {
    /// Cuts an answer to `request` into one fragment for each id, in the order of the ids, each
    /// with its own freshness from `ttls`. The fragments keep nothing of the answer's own buffer.
    pub(super) fn cut(
        request: &Request,
        answer: &UpstreamResponse,
        rows: &Rows,
        (asked, stored): (Instant, Instant),
        ttls: &[Duration],
    ) -> Vec<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (before, after) = rows.envelope();
        let source = Arc::new(Origin {
            number: NEXT.fetch_add(1, atomic::Ordering::Relaxed),
            asked,
            stored,
            headers: answer.without_passing_fields().headers,
            before: Bytes::copy_from_slice(before),
            after: Bytes::copy_from_slice(after),
            layout: rows.layout().filter(|layout| !layout.is_compact()).map(Box::new),
        });
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mut parts: Vec<(Vec<u8>, Vec<Row>)> = request.ids().map(|_| <_>::default()).collect();
        for (position, (id, text, time)) in rows.iter().enumerate() {
            let Some((all, rows)) = parts.get_mut(id) else { continue };
            all.extend_from_slice(text);
            rows.push(Row {
                position: small(position),
                end: small(all.len()),
                time: time.map_or((0, 0), |time| (small(time.start), small(time.end))),
            });
        }
        let fragment = |((text, rows), ttl): ((Vec<u8>, Vec<Row>), &Duration)| Self {
            source: Arc::clone(&source),
            ttl: *ttl,
            text: text.into(),
            rows: rows.into(),
            prefetched: None,
            _memory: None,
        };
        parts.into_iter().zip(ttls).map(fragment).collect()
    }

    /// Marks the fragment as prefetched.
    pub(super) fn prefetched(self, counters: Prefetched) -> Self {
        let used = AtomicBool::new(false);
        Self {
            prefetched: Some(Box::new(Unused { counters, used })),
            ..self
        }
    }

    /// Attaches the memory reservation of the fragment, which lasts until its last reader drops it.
    pub(super) fn with_memory(self, reservation: Reservation) -> Self {
        Self {
            _memory: Some(reservation),
            ..self
        }
    }

    /// Records that an answer used the fragment.
    pub(super) fn is_used(&self) {
        if let Some(unused) = &self.prefetched
            && !unused.used.swap(true, atomic::Ordering::Relaxed)
        {
            unused.counters.used.inc();
        }
    }

    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.source
    }

    pub(super) fn age(&self, now: Instant) -> Age {
        Age {
            age: now.saturating_duration_since(self.source.stored),
            ttl: self.ttl,
        }
    }

    fn rows(&self) -> impl Iterator<Item = RowRef<'_>> {
        let mut start = 0;
        self.rows.iter().map(move |row| {
            let end = row.end as usize;
            let text = &self.text[start..end];
            start = end;
            let time = row.time.0 as usize..row.time.1 as usize;
            RowRef {
                at: (self.source.number, row.position as usize),
                time: (!time.is_empty()).then(|| &text[time]),
                text,
            }
        })
    }

    /// The memory that it takes under its key. The origin is counted with each of its fragments,
    /// because each may be the last one left.
    pub(super) fn weight(&self, key: &Key) -> u32 {
        let layout = self.source.layout.as_ref().map_or(0, |layout| {
            let between = layout.between.as_ref().map_or(0, |between| between.len());
            size_of::<Layout>() + layout.before.len() + between + layout.after.len() + 4 * ALLOCATION_BYTES
        });
        let around = self.source.before.len() + self.source.after.len() + layout;
        let source = size_of::<Origin>() + self.source.headers.bytes() + around;
        let own = size_of::<Self>() + self.text.len() + size_of_val(&*self.rows);
        // Fragment, text and rows; origin, its header fields and their texts, and the text before
        // and after the rows.
        let rounding = 3 * ALLOCATION_BYTES + 5 * BUFFER_BYTES;
        u32::try_from(slot_bytes(key) + source + own + rounding).unwrap_or(u32::MAX)
    }
}

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
            .map(|fragment| &fragment.source)
            .max_by_key(|source| source.asked)
            .ok_or(SplitError::Shape)?;
        if fragments.iter().any(|fragment| !alike(&fragment.source, newest)) {
            return Err(SplitError::Shape);
        }
        let endpoint = request.endpoint();
        if !upstream_profile.fits(request, fragments.iter().map(|fragment| fragment.rows.len()).sum()) {
            // An answer with as many rows might be cut off.
            return Err(SplitError::Longest);
        }
        let mut rows: Vec<(usize, RowRef<'_>)> = Vec::new();
        for (id, fragment) in fragments.iter().enumerate() {
            rows.extend(fragment.rows().map(|row| (id, row)));
        }
        sort(&mut rows, || upstream_profile.ordering(endpoint))?;
        let sources = || fragments.iter().map(|fragment| &fragment.source);
        // The layout of the newest answer in which it can be seen.
        let spaced = sources().filter(|source| source.layout.is_some());
        let layout = spaced.max_by_key(|source| source.asked);
        let layout = layout.and_then(|source| source.layout.as_deref());
        // Where none of them shows what separates two rows, an earlier answer has shown it:
        // otherwise the order of rows would not be known.
        let shown = layout.and_then(|layout| layout.between.clone());
        let between = shown
            .or_else(|| upstream_profile.between(endpoint))
            .unwrap_or_else(|| b",".as_slice().into());
        let stored = sources().map(|source| source.stored).min().unwrap_or(newest.stored);
        let fresh_until = fragments
            .iter()
            .map(|fragment| fragment.source.stored + fragment.ttl)
            .min();
        Ok(Self {
            answer: UpstreamResponse {
                status: StatusCode::OK,
                headers: newest.headers.clone(),
                body: body(newest, layout, &between, &rows),
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

fn body(envelope: &Origin, layout: Option<&Layout>, between: &[u8], rows: &[(usize, RowRef<'_>)]) -> Bytes {
    // Without rows there is no space between the brackets either.
    let layout = layout.filter(|_| !rows.is_empty());
    let (before, after): (&[u8], &[u8]) = layout.map_or((b"", b""), |layout| (&layout.before, &layout.after));
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
