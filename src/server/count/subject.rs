//! Who asked what, for log lines and for people.

use std::sync::Arc;

use http::{Method, Request, Version as Protocol, header};

use super::callers::Caller;
use crate::scan::Version;
use crate::server::{Known, Peer};

/// Longer paths and names of programs are cut.
const LONGEST: usize = 200;

/// Who is at the other end of a connection: the same for nearly all of its requests.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) caller: Arc<Caller>,
    pub(super) peer: Peer,
}

/// Who asked what.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) origin: Arc<Origin>,
    pub(super) method: Method,
    target: Target,
    pub(super) access: Option<Box<Access>>,
}

#[derive(Debug)]
enum Target {
    Operation(Version),
    /// A path that is none of an operation's, without its query.
    Other(Box<str>),
}

/// What only a line of the access log tells.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) protocol: &'static str,
    pub(super) user_agent: Option<Box<str>>,
}

impl Subject {
    pub(super) fn new(origin: Arc<Origin>, known: &Known) -> Self {
        let path = known.head.uri().path();
        Self {
            origin,
            method: known.head.method().clone(),
            target: match Version::from_path(path) {
                Some(version) => Target::Operation(version),
                None => Target::Other(cut(path)),
            },
            access: None,
        }
    }

    /// The operation; `None` when no operation is at the path.
    pub(super) fn operation(&self) -> Option<&'static str> {
        match self.target {
            Target::Operation(version) => version.path().rsplit('/').next(),
            Target::Other(_) => None,
        }
    }

    pub(super) fn path(&self) -> &str {
        match &self.target {
            Target::Operation(version) => version.path(),
            Target::Other(path) => path,
        }
    }
}

impl Access {
    pub(super) fn of(request: &Request<()>) -> Self {
        let agent = request.headers().get(header::USER_AGENT);
        Self {
            protocol: if request.version() == Protocol::HTTP_2 {
                "HTTP/2"
            } else if request.version() == Protocol::HTTP_10 {
                "HTTP/1.0"
            } else {
                "HTTP/1.1"
            },
            user_agent: agent.map(|agent| cut(&String::from_utf8_lossy(agent.as_bytes()))),
        }
    }
}

/// Without control characters, which have no place in logs and terminals, and not longer than is shown.
fn cut(text: &str) -> Box<str> {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(LONGEST).collect::<String>().into()
}
