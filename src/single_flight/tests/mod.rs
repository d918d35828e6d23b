mod batch_join;
mod batcher;
mod cancel;
mod differential;
mod fixture;
mod single;
