//! A part with work in the background, which ends with the part.

use std::sync::Arc;

use tokio_util::sync::DropGuard;

use crate::task::Tasks;

/// Background work goes on while a clone of this is kept. The empty one keeps nothing up.
#[derive(Clone, Debug, Default)]
pub(super) struct BackgroundTasks(Vec<Arc<DropGuard>>);

impl BackgroundTasks {
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }
}

/// A part and its upkeep.
#[derive(Clone, Debug)]
pub(super) struct Supervised<T> {
    pub(super) part: T,
    pub(super) upkeep: BackgroundTasks,
}

impl<T> Supervised<T> {
    /// Makes a part, whose background work runs as the tasks it is given.
    pub(super) fn make<E>(tasks: &Tasks, make: impl FnOnce(&Tasks) -> Result<T, E>) -> Result<Self, E> {
        let (branch, guard) = tasks.branch();
        Ok(Self {
            part: make(&branch)?,
            upkeep: BackgroundTasks(vec![Arc::new(guard)]),
        })
    }
}
