//! A request on its way through the layers.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Request, Uri, header};
use tokio::time::Instant;

use super::Peer;
use crate::caller::{Name, RequestId};
use crate::response::{Refusal, RequestInfo};
use crate::scan::{Operation, Target, route};
use crate::telemetry::trace::Trace;

/// A request, and what is known about it besides what HTTP says.
///
/// In one box: it is handed from layer to layer, and to move all of it each time, or to look it up by type in a map, costs more than
/// most of them do.
#[derive(Debug)]
pub struct InboundRequest<B> {
    known: Box<Known>,
    body: B,
}

/// All of an [`InboundRequest`] but its body.
#[derive(Debug)]
pub struct Known {
    /// The request without its body.
    pub head: Request<()>,
    /// Who sent it.
    pub peer: Peer,
    /// Who is asking, for fairness and for people: the peer's address, unless the caller says otherwise.
    pub caller: Name,
    /// Its name in logs and answers.
    pub id: RequestId,
    /// Its place in a trace.
    pub trace: Trace,
    /// When its last header field was there.
    pub at: Instant,
    /// Whether it has only [usual](is_usual) fields: then nobody needs to search for any other.
    pub plain: bool,
    /// What its path means; `None` when it is no path of ours.
    pub target: Option<Target>,
    /// Why it is refused whatever it asks for, if it is.
    pub refused: Option<Refusal>,
}

/// Whether nearly every request has this field, and asks for nothing with it.
#[must_use]
pub fn is_usual(name: &HeaderName) -> bool {
    static USUAL: [HeaderName; 7] = [
        header::HOST,
        header::CONTENT_TYPE,
        header::CONTENT_LENGTH,
        header::ACCEPT,
        header::USER_AGENT,
        header::ACCEPT_ENCODING,
        header::CONNECTION,
    ];
    USUAL.contains(name)
}

impl<B> InboundRequest<B> {
    /// A request that has just come from `peer`. It is named: by its caller, if the name is sane.
    #[must_use]
    pub fn new(request: Request<B>, peer: Peer) -> Self {
        let (head, body) = request.into_parts();
        let plain = head.headers.keys().all(is_usual);
        let given = if plain { None } else { name_from_caller(&head.headers) };
        Self {
            known: Box::new(Known {
                caller: peer.name(),
                peer,
                id: given.unwrap_or_else(RequestId::random),
                trace: Trace::None,
                at: Instant::now(),
                target: route(head.uri.path()),
                head: Request::from_parts(head, ()),
                plain,
                refused: None,
            }),
            body,
        }
    }

    /// What is known about it.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Has it refused as soon as it is counted.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.known.refused = Some(refusal);
    }

    /// Says who is asking.
    pub fn set_caller(&mut self, caller: Name) {
        self.known.caller = caller;
    }

    /// Puts it in a trace.
    pub fn set_trace(&mut self, trace: Trace) {
        self.known.trace = trace;
    }

    /// What is known about it, and its body.
    #[must_use]
    pub fn into_pieces(self) -> (Box<Known>, B) {
        (self.known, self.body)
    }

    /// As a plain request, with the [`Peer`] as an extension.
    #[must_use]
    pub fn into_request(self) -> Request<B> {
        let (mut head, ()) = self.known.head.into_parts();
        head.extensions.insert(self.known.peer);
        Request::from_parts(head, self.body)
    }
}

/// The name that the caller gave its request, if it is sane.
fn name_from_caller(fields: &HeaderMap) -> Option<RequestId> {
    RequestId::from_caller(fields.get("x-request-id")?.to_str().ok()?)
}

impl<B> RequestInfo for InboundRequest<B> {
    fn id(&self) -> RequestId {
        self.known.id.clone()
    }

    fn uri(&self) -> &Uri {
        self.known.head.uri()
    }

    fn operation(&self) -> Option<Operation> {
        let target = self.known.target.as_ref();
        target.map(|target| target.endpoint.operation)
    }

    fn headers(&self) -> &HeaderMap {
        self.known.head.headers()
    }

    fn peer(&self) -> Option<IpAddr> {
        self.known.peer.address()
    }
}
