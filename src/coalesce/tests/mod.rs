mod bench;
mod cancel;
mod differential;
mod lift;
mod merge;
mod single;
