//! A part with work in the background, which ends with the part.

use std::sync::Arc;

use tokio_util::sync::DropGuard;

use crate::task::Tasks;

/// Background work goes on while a clone of this is kept. The empty one keeps nothing up.
#[derive(Clone, Debug, Default)]
pub(super) struct BackgroundTasks(Vec<Arc<DropGuard>>);

impl BackgroundTasks {
    pub(super) fn together<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        Self(all.into_iter().flat_map(|one| one.0.iter().cloned()).collect())
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
    pub(super) fn make(tasks: &Tasks, make: impl FnOnce(&Tasks) -> T) -> Self {
        let (branch, guard) = tasks.branch();
        Self {
            part: make(&branch),
            upkeep: BackgroundTasks(vec![Arc::new(guard)]),
        }
    }
}
