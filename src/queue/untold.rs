//! A refusal of which it is not decided yet whether its caller is told.

use std::sync::Arc;

use tokio::time::Instant;

use super::{PermitSource, Queue};
use super::refused::{Reason, Refused};
use crate::attempt::Refusal;
use crate::caller::Caller;

/// Counts the refusal on drop, unless it was withdrawn.
#[derive(Debug)]
pub(super) struct Untold<S: PermitSource> {
    queue: Queue<S>,
    caller: Arc<Caller>,
    due: Option<Instant>,
    /// `None` once it is withdrawn.
    reason: Option<Reason>,
}

impl<S: PermitSource> Untold<S> {
    pub(super) fn new(queue: Queue<S>, caller: &Arc<Caller>, refused: &Refused) -> Self {
        Self {
            queue,
            caller: Arc::clone(caller),
            due: refused.due,
            reason: Some(refused.reason),
        }
    }
}

impl<S: PermitSource> Refusal for Untold<S> {
    fn withdraw(mut self: Box<Self>) {
        self.reason = None;
        if let Some(due) = self.due {
            let mut state = self.queue.0.lock();
            state.withdraw(&self.caller.name, self.caller.urgency, due, Instant::now());
        }
    }
}

impl<S: PermitSource> Drop for Untold<S> {
    fn drop(&mut self) {
        if let Some(reason) = self.reason {
            self.queue.0.count_told(reason);
        }
    }
}
