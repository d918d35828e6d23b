//! Several replicas, one real redis-server: what they share besides the quota.

mod damage;
mod fifty;
mod loss;
pub(crate) mod proxy;
mod replica;
mod share;
mod under_way;
