mod batch_failure;
mod batch_join;
mod batch_size;
mod batcher;
mod cancel;
mod differential;
mod fixture;
mod single;
