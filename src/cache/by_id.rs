//! Keeping answers by id.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use crate::cache::Prefetch;
use crate::cache::piece::Piece;
use crate::cache::shelf::{Cache, Stored};
use crate::scan::{Answer, Key, Request, Rows};

impl Cache {
    /// Counts what is asked for, where that decides what is renewed.
    pub(super) fn note(&self, request: &Request, now: Instant) {
        if self.config.prefetch == Prefetch::On && request.is_plain() {
            self.popularity.note(request, now);
        }
    }

    /// The rows of an answer, if answers are kept by id and it is certain whose row is whose.
    pub(super) fn rows(&self, request: &Request, answer: &Answer) -> Option<Rows> {
        let may_be_cut = self.lore.is_some() && request.is_whole() && answer.status == StatusCode::OK;
        may_be_cut.then(|| Rows::split(request, &answer.body).ok()).flatten()
    }

    /// Keeps an answer by id as well, if it is certain that no row is missing.
    pub(super) fn keep_pieces(
        &self,
        request: &Request,
        answer: &Answer,
        rows: Option<&Rows>,
        (asked, stored): (Instant, Instant),
        ttls: &[Duration],
        prefetched: Option<&Request>,
    ) {
        let (Some(lore), Some(rows)) = (&self.lore, rows) else {
            return;
        };
        if !lore.is_complete(request, rows.len()) {
            return;
        }
        let has_piece = |id| {
            let piece = self.piece(request.endpoint(), id);
            piece.is_some_and(|piece| piece.source().asked >= asked)
        };
        // Those of the same answer, or of a later one.
        if request.ids().all(has_piece) {
            return;
        }
        if self.config.prefetch == Prefetch::On {
            self.popularity.renewed(request, stored, ttls);
        }
        let unasked: HashSet<&str> = prefetched.into_iter().flat_map(Request::ids).collect();
        let pieces = Piece::cut(request, answer, rows, (asked, stored), ttls);
        for (id, piece) in request.ids().zip(pieces) {
            let piece = if unasked.contains(id) {
                piece.prefetched(self.metrics.prefetched())
            } else {
                piece
            };
            let newer = self
                .piece(request.endpoint(), id)
                .is_some_and(|other| other.source().asked >= asked);
            let key = Key::of_rows(request.endpoint(), id);
            let weight = piece.weight(&key);
            if !newer && u64::from(weight) <= self.config.max_size {
                self.put(key, Stored::Piece(Arc::new(piece)), weight);
            }
        }
    }

    /// Keeps the rows of an answer to a call that was made for several.
    pub(super) fn keep_united(&self, request: &Request, prefetched: Option<&Request>, answer: &Answer, asked: Instant) {
        if self.is_off() {
            return;
        }
        let rows = self.rows(request, answer);
        let stored = Instant::now().checked_sub(answer.age());
        if let (Some(lifetimes), Some(stored)) = (self.freshness(request, answer, rows.as_ref()), stored) {
            self.keep_pieces(
                request,
                answer,
                rows.as_ref(),
                (asked, stored),
                &lifetimes.ids,
                prefetched,
            );
        }
    }
}
