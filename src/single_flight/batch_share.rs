//! The answer to a batch, as its members and its carrier take their parts of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::memory::{AnswerMemory, Reservation};
use crate::net::MEMORY_WAIT;
use crate::scan::{Request, Rows, StoredRows, UpstreamResponse};
use crate::single_flight::batch_role::{MemberOutcome, MemberResponse};
use crate::single_flight::batcher::{BatchMember, Batcher, wait_again};

/// How long a part of the answer to a batch waits for memory. Meanwhile it holds up the memory of
/// the whole answer, for which another call may wait in front of it, and that call must not give up.
const PART_WAIT: Duration = Duration::from_secs(5);
const _: () = assert!(PART_WAIT.as_secs() * 2 < MEMORY_WAIT.as_secs());

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

/// An answer to a batch, split into rows. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct BatchShare {
    pub(super) whole: Arc<Request>,
    pub(super) rows: Arc<Rows>,
    pub(super) answer: UpstreamResponse,
    pub(super) asked: Instant,
}

impl MemberResponse {
    /// The same, once there is memory for it; `None` when there is none in time.
    pub(super) async fn counted(self, memory: Option<&AnswerMemory>) -> Option<Self> {
        let Some(memory) = memory else { return Some(self) };
        let bytes = self.answer.body.len();
        let reserved = timeout(PART_WAIT, memory.of(bytes).reserve(bytes)).await.ok()?;
        Some(self.with_memory(reserved))
    }

    fn with_memory(self, reserved: Reservation) -> Self {
        Self {
            answer: self.answer.with_memory(reserved),
            ..self
        }
    }
}

/// A part of an answer that goes by the memory of the whole.
struct PartOfWhole {
    part: Bytes,
    _whole: Bytes,
}

impl AsRef<[u8]> for PartOfWhole {
    fn as_ref(&self) -> &[u8] {
        &self.part
    }
}

impl BatchShare {
    /// How many rows belong to the ids of a request.
    pub(super) fn count(&self, request: &Request) -> usize {
        count_rows(&self.whole, request, &self.rows)
    }

    /// The answer to a request whose ids are all among those of the batch.
    pub(super) fn part(&self, request: &Request) -> MemberResponse {
        MemberResponse {
            answer: UpstreamResponse {
                body: self.rows.only(is_of(&self.whole, request)),
                ..self.answer.clone()
            },
            asked: self.asked,
        }
    }

    /// A member's part, once there is memory for it; `None` when there is none in time. Members may be
    /// many, and each of their parts almost as long as the whole.
    pub(super) async fn counted_part(&self, request: &Request, memory: &AnswerMemory) -> Option<MemberResponse> {
        let bytes = self.rows.bytes_of(is_of(&self.whole, request));
        let reserved = timeout(PART_WAIT, memory.of(bytes).reserve(bytes)).await.ok()?;
        Some(self.part(request).with_memory(reserved))
    }

    /// The carrier's part, which waits for nobody: where no memory is left for it, it keeps that of
    /// the whole, which is never shorter, for as long as its callers need it. Then both are there,
    /// on the memory of one.
    pub(super) fn own_part(&self, request: &Request, memory: &AnswerMemory) -> MemberResponse {
        let part = self.part(request);
        let bytes = part.answer.body.len();
        let budget = memory.of(bytes);
        if let Some(reserved) = budget.try_reserve(bytes) {
            return part.with_memory(reserved);
        }
        let MemberResponse { answer, asked } = part;
        let body = Bytes::from_owner(PartOfWhole {
            part: answer.body.clone(),
            _whole: self.answer.body.clone(),
        });
        let answer = UpstreamResponse { body, ..answer };
        MemberResponse { answer, asked }.with_memory(Reservation::none(Arc::clone(budget)))
    }

    /// The same, joined with rows that had come before; `None` when they cannot be joined.
    pub(super) fn joined(&self, stored: &dyn StoredRows) -> Option<MemberResponse> {
        let rest = stored.missing().map(|missing| self.part(missing).answer);
        let (answer, asked) = stored.complete(rest.as_ref())?;
        Some(MemberResponse { answer, asked })
    }

    /// Answers a member from these rows and those that had come before; returns the number of its
    /// waiters. If they cannot be joined, it asks for all of its ids in another batch.
    pub(super) fn join(&self, member: BatchMember) -> usize {
        let Some(response) = member.stored.as_deref().and_then(|stored| self.joined(stored)) else {
            member.flight.ask_for_all();
            wait_again(vec![member], |flight| flight.rejoin(0));
            return 0;
        };
        let answered = member.flight.waiter_count();
        // A member whose task ended with the runtime needs no outcome.
        let _ = member.sender.send(MemberOutcome::Response(response));
        answered
    }

    /// Answers the members for which it is certain that they would get as many rows alone; returns
    /// the number of their waiters. Of the others, one with `longest` rows, if given, asks alone,
    /// and the rest join another batch.
    pub(super) fn tell(
        &self,
        batcher: &Batcher,
        members: Vec<(usize, BatchMember)>,
        mut longest: Option<usize>,
    ) -> usize {
        let mut answered = 0;
        let mut unanswered = Vec::new();
        for (count, member) in members {
            if batcher.fits(&member.flight, count) {
                answered += member.flight.waiter_count();
                let _ = member.sender.send(MemberOutcome::Share(Box::new(self.clone())));
                continue;
            }
            if longest.take_if(|longest| *longest == count).is_some() {
                member.flight.leave_batch();
            } else {
                member.flight.rejoin(count);
            }
            unanswered.push(member);
        }
        wait_again(unanswered, |_| {});
        answered
    }
}
