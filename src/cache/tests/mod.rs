mod by_id;
mod differential;
pub(super) mod fixture;
mod lists;
mod partial_hit;
mod stale;
mod whole;
