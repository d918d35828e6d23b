//! Several replicas, one real redis-server: what they share besides the quota.

mod damage;
mod fifty;
mod loss;
mod proxy;
mod replica;
mod share;
