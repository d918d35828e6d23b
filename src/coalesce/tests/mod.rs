mod bench;
mod differential;
mod lift;
mod merge;
mod single;
