//! A part with work in the background, which ends with the part.

use std::sync::Arc;

use tokio_util::sync::DropGuard;

use crate::task::Tasks;

/// Background work goes on while a clone of this is kept. The empty one keeps nothing up.
#[derive(Clone, Debug, Default)]
pub(super) struct Upkeep(Vec<Arc<DropGuard>>);

impl Upkeep {
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }
}

/// A part and its upkeep.
#[derive(Clone, Debug)]
pub(super) struct Tended<T> {
    pub(super) part: T,
    pub(super) upkeep: Upkeep,
}

impl<T> Tended<T> {
    /// Makes a part, whose background work runs as the tasks it is given.
    pub(super) fn make<E>(tasks: &Tasks, make: impl FnOnce(&Tasks) -> Result<T, E>) -> Result<Self, E> {
        let (branch, guard) = tasks.branch();
        Ok(Self {
            part: make(&branch)?,
            upkeep: Upkeep(vec![Arc::new(guard)]),
        })
    }
}
