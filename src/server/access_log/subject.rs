//! The caller and the target of a request, for log lines and the status page.

use std::borrow::Cow;
use std::sync::Arc;

use http::{Method, Request, Version as Protocol, header};

use super::callers::Caller;
use super::metrics::Asked;
use crate::scan;
use crate::server::{Peer, RequestMeta};

/// Longer paths and user agents are cut.
const LONGEST: usize = 200;

/// The caller and the peer, which are the same for nearly all requests of a connection.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) caller: Arc<Caller>,
    pub(super) peer: Peer,
}

/// The caller and the target of a request.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) origin: Arc<Origin>,
    pub(super) method: Method,
    target: Target,
    pub(super) access: Option<Box<Access>>,
}

#[derive(Debug)]
enum Target {
    Operation(scan::Target),
    /// A path that is no operation's, without its query.
    Other(Box<str>),
}

/// What only the access log contains.
#[derive(Debug)]
pub(super) struct Access {
    pub(super) protocol: &'static str,
    pub(super) user_agent: Option<Box<str>>,
}

impl Subject {
    pub(super) fn new(origin: Arc<Origin>, known: &RequestMeta) -> Self {
        Self {
            origin,
            method: known.head.method().clone(),
            target: match &known.target {
                Some(target) => Target::Operation(target.clone()),
                None => Target::Other(cut(known.head.uri().path())),
            },
            access: None,
        }
    }

    /// The operation; `None` when the path is no operation's.
    pub(super) fn operation(&self) -> Option<&'static str> {
        match &self.target {
            Target::Operation(target) => Some(target.endpoint.name()),
            Target::Other(_) => None,
        }
    }

    pub(super) fn path(&self) -> Cow<'_, str> {
        match &self.target {
            Target::Operation(target) => target.endpoint.path(target.id.as_ref()).into(),
            Target::Other(path) => Cow::Borrowed(path),
        }
    }

    /// The labels of its metrics.
    pub(super) fn asked(&self) -> Asked<'_> {
        Asked {
            operation: match &self.target {
                Target::Operation(target) => Some(target.endpoint.operation),
                Target::Other(_) => None,
            },
            caller: &self.origin.caller,
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

/// The text without control characters, which could harm logs and terminals, and cut to the length
/// that is shown.
fn cut(text: &str) -> Box<str> {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(LONGEST).collect::<String>().into()
}
