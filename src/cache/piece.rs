//! The rows of one id, kept apart from the answer that they came with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::cache::entry::Age;
use crate::cache::weight::{ALLOCATION_BYTES, BUFFER_BYTES, slot_bytes};
use crate::scan::{Answer, Fields, Key, Request, Rows};

/// The rows of one id in one answer. An id without rows has a piece too: that there are none is what the upstream said.
#[derive(Debug)]
pub(super) struct Piece {
    source: Arc<Source>,
    /// The rows, one after the other.
    text: Box<[u8]>,
    rows: Box<[Row]>,
}

/// An answer that was cut into pieces.
#[derive(Debug)]
pub(super) struct Source {
    number: u64,
    pub(super) asked: Instant,
    pub(super) stored: Instant,
    pub(super) ttl: Duration,
    pub(super) headers: Fields,
    pub(super) before: Bytes,
    pub(super) after: Bytes,
}

/// A row's place in its piece, and in its answer. Small, because there is one for every row in the cache: answers are far shorter than
/// 4 GiB.
#[derive(Debug)]
struct Row {
    position: u32,
    end: u32,
    /// Where its time begins and ends, from the row's beginning; the same twice when it has none.
    time: (u32, u32),
}

/// A row, as it is put together with others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice<'a> {
    /// Which answer it came with, and where it stood there.
    pub(super) at: (u64, usize),
    pub(super) time: Option<&'a [u8]>,
    pub(super) text: &'a [u8],
}

impl Piece {
    /// Cuts an answer to `request` into one piece for each id, in the order of the ids. Nothing of the answer's own buffer is kept.
    pub(super) fn cut(
        request: &Request,
        answer: &Answer,
        rows: &Rows,
        (asked, stored): (Instant, Instant),
        ttl: Duration,
    ) -> Vec<Arc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (before, after) = rows.envelope();
        let source = Arc::new(Source {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            asked,
            stored,
            ttl,
            headers: answer.headers.clone(),
            before: Bytes::copy_from_slice(before),
            after: Bytes::copy_from_slice(after),
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
        let piece = |(text, rows): (Vec<u8>, Vec<Row>)| {
            Arc::new(Self {
                source: Arc::clone(&source),
                text: text.into(),
                rows: rows.into(),
            })
        };
        parts.into_iter().map(piece).collect()
    }

    pub(super) fn source(&self) -> &Arc<Source> {
        &self.source
    }

    pub(super) fn age(&self, now: Instant) -> Age {
        Age {
            age: now.saturating_duration_since(self.source.stored),
            ttl: self.source.ttl,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Slice<'_>> {
        let mut start = 0;
        self.rows.iter().map(move |row| {
            let end = row.end as usize;
            let text = &self.text[start..end];
            start = end;
            let time = row.time.0 as usize..row.time.1 as usize;
            Slice {
                at: (self.source.number, row.position as usize),
                time: (!time.is_empty()).then(|| &text[time]),
                text,
            }
        })
    }

    /// What it takes in memory under its key. The source is counted with each of its pieces, as each may be the last one left.
    pub(super) fn weight(&self, key: &Key) -> u32 {
        let source =
            size_of::<Source>() + self.source.headers.bytes() + self.source.before.len() + self.source.after.len();
        let own = size_of::<Self>() + self.text.len() + size_of_val(&*self.rows);
        // Piece, text and rows; source, its fields and their texts, and what is before and after.
        let rounding = 3 * ALLOCATION_BYTES + 5 * BUFFER_BYTES;
        u32::try_from(slot_bytes(key) + source + own + rounding).unwrap_or(u32::MAX)
    }
}
