//! Fragments: the rows of one id, stored apart from the answer that they came with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::cache::entry::Age;
use crate::cache::entry::{ALLOCATION_BYTES, BUFFER_BYTES, slot_bytes};
use crate::cache::metrics::Prefetched;
use crate::scan::{Headers, Key, Layout, Request, Rows, UpstreamResponse};

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
    pub(super) headers: Headers,
    /// The text before the rows, with the opening bracket, and the one after them.
    pub(super) before: Bytes,
    pub(super) after: Bytes,
    /// The text between rows. `None` when it is a comma without space, or is unknown because the
    /// answer has at most one row without space around it.
    pub(super) spacing: Option<Box<Spacing>>,
}

/// The white space around and between the rows of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spacing {
    pub(super) before: Box<[u8]>,
    /// `None` when there is only one row.
    pub(super) between: Option<Box<[u8]>>,
    pub(super) after: Box<[u8]>,
}

impl Spacing {
    /// `None` when there are only commas.
    fn of(layout: Layout<'_>) -> Option<Box<Self>> {
        let is_compact =
            layout.before.is_empty() && layout.after.is_empty() && layout.between.is_none_or(|between| between == b",");
        (!is_compact).then(|| {
            Box::new(Self {
                before: layout.before.into(),
                between: layout.between.map(Into::into),
                after: layout.after.into(),
            })
        })
    }

    fn len(&self) -> usize {
        self.before.len() + self.between.as_ref().map_or(0, |between| between.len()) + self.after.len()
    }
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
pub(super) struct RowRef<'a> {
    /// Its answer, and its position there.
    pub(super) at: (u64, usize),
    pub(super) time: Option<&'a [u8]>,
    pub(super) text: &'a [u8],
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
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            asked,
            stored,
            headers: answer.without_passing_fields().headers,
            before: Bytes::copy_from_slice(before),
            after: Bytes::copy_from_slice(after),
            spacing: rows.layout().and_then(Spacing::of),
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

    /// Records that an answer used the fragment.
    pub(super) fn is_used(&self) {
        if let Some(unused) = &self.prefetched
            && !unused.used.swap(true, Ordering::Relaxed)
        {
            unused.counters.used.inc();
        }
    }

    pub(super) fn origin(&self) -> &Arc<Origin> {
        &self.source
    }

    /// When it becomes stale.
    pub(super) fn fresh_until(&self) -> Instant {
        self.source.stored + self.ttl
    }

    pub(super) fn age(&self, now: Instant) -> Age {
        Age {
            age: now.saturating_duration_since(self.source.stored),
            ttl: self.ttl,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = RowRef<'_>> {
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
        let spacing = self.source.spacing.as_ref();
        let spacing = spacing.map_or(0, |spacing| size_of::<Spacing>() + spacing.len() + 4 * ALLOCATION_BYTES);
        let around = self.source.before.len() + self.source.after.len() + spacing;
        let source = size_of::<Origin>() + self.source.headers.bytes() + around;
        let own = size_of::<Self>() + self.text.len() + size_of_val(&*self.rows);
        // Fragment, text and rows; origin, its header fields and their texts, and the text before
        // and after the rows.
        let rounding = 3 * ALLOCATION_BYTES + 5 * BUFFER_BYTES;
        u32::try_from(slot_bytes(key) + source + own + rounding).unwrap_or(u32::MAX)
    }
}
