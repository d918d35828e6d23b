//! The rows of one id, kept apart from the answer that they came with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::cache::entry::{Age, BOOKKEEPING_BYTES};
use crate::scan::{Answer, Fields, Request, Rows};

/// The rows of one id in one answer. An id without rows has a piece too: that there are none is what the upstream said.
#[derive(Debug)]
pub(super) struct Piece {
    source: Arc<Source>,
    /// The rows, one after the other.
    text: Bytes,
    rows: Vec<Row>,
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

/// A row's bytes in its piece, and where it stood in its answer.
#[derive(Debug)]
struct Row {
    position: usize,
    end: usize,
    time: Option<Bytes>,
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
        let mut parts: Vec<(Vec<u8>, Vec<Row>)> = request.ids().map(|_| <_>::default()).collect();
        for (position, (id, text, time)) in rows.iter().enumerate() {
            let Some((all, rows)) = parts.get_mut(id) else { continue };
            all.extend_from_slice(text);
            rows.push(Row {
                position,
                end: all.len(),
                time: time.map(Bytes::copy_from_slice),
            });
        }
        let piece = |(text, rows): (Vec<u8>, Vec<Row>)| {
            Arc::new(Self {
                source: Arc::clone(&source),
                text: text.into_boxed_slice().into(),
                rows,
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
            let text = &self.text[start..row.end];
            start = row.end;
            Slice {
                at: (self.source.number, row.position),
                time: row.time.as_deref(),
                text,
            }
        })
    }

    /// What it takes in memory. The source is counted with each of its pieces, as each may be the last one left.
    pub(super) fn weight(&self) -> u32 {
        /// A row's own record and its time, each with an allocation's rounding.
        const ROW_BYTES: usize = 128;
        let source = self.source.headers.bytes() + self.source.before.len() + self.source.after.len();
        let weight = BOOKKEEPING_BYTES + source + self.text.len() + self.rows.len() * ROW_BYTES;
        u32::try_from(weight).unwrap_or(u32::MAX)
    }
}
