//! The call that finds out whether Defender accepts a token again.

use std::sync::Arc;

use tokio::time::Instant;

use crate::token::token_source::state::Shared;

/// One call's try of a token that is withheld from all others. Dropped without a word of Defender
/// about the token, it leaves the try to another call.
pub(in crate::token) struct Trial {
    shared: Arc<Shared>,
    /// Until when the token is withheld; `None` once it is known that it was rejected again.
    until: Option<Instant>,
}

impl Trial {
    pub(super) fn new(shared: &Arc<Shared>, until: Instant) -> Self {
        Self {
            shared: Arc::clone(shared),
            until: Some(until),
        }
    }

    /// Defender rejected the token again: it stays withheld.
    pub(in crate::token) fn failed(mut self) {
        self.until = None;
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if let Some(until) = self.until {
            self.shared.state().give_back(until, Instant::now());
        }
    }
}
