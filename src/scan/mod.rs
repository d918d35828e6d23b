//! The domain: a question about scan history, its canonical key, and the answer. Pure: no I/O, no clock.

mod answer;
mod call;
mod request;

pub use answer::Answer;
pub use call::{Call, Forward, Outcome, Served, Status};
pub use request::{Request, Version};
