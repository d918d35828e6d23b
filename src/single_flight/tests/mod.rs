mod batcher;
mod bench;
mod cancel;
mod differential;
mod lift;
mod single;
