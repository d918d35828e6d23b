pub(super) mod bench;
mod by_id;
mod differential;
mod whole;
