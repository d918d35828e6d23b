//! Several replicas, one real redis-server: what they share besides the quota.

mod damage;
mod fifty;
mod loss;
mod replica;
mod proxy;
mod share;
