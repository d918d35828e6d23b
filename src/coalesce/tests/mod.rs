mod bench;
mod differential;
mod merge;
mod single;
