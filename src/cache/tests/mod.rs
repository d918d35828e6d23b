mod by_id;
mod differential;
pub(super) mod fixture;
mod whole;
