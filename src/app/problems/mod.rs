//! What is wrong at this moment: the one list behind the page's banner, `/status`,
//! `/readyz?verbose`, `status`, the metric `problem`, the mode, and a log line each when a problem
//! begins and when it ends.
//!
//! Not here: what a request was answered (`server::access_log`). Invariant: the mode is `normal`
//! only while the list is empty.

mod code;
mod found;
mod list;

pub(super) use code::{Code, Severity};
pub(super) use list::{Problem, Problems, Standing};
