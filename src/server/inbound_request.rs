//! A request on its way through the layers.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Request, Uri, header};
use tokio::time::Instant;

use super::Peer;
use crate::caller::{Name, RequestId};
use crate::response::{RequestError, RequestInfo};
use crate::scan::{Operation, Target, route};
use crate::telemetry::trace::Trace;

/// A request, and what is known about it besides its HTTP message.
///
/// It is in one box, because it is passed from layer to layer: moving all of it each time, or
/// looking parts up by type in a map, would cost more than most layers do.
#[derive(Debug)]
pub struct InboundRequest<B> {
    meta: Box<RequestMeta>,
    body: B,
}

/// All of an [`InboundRequest`] except its body.
#[derive(Debug)]
pub struct RequestMeta {
    /// The request without its body.
    pub head: Request<()>,
    /// The peer that sent it.
    pub peer: Peer,
    /// The caller, for fairness and for people: the peer's address, unless the request names one.
    pub caller: Name,
    /// Its id in logs and responses.
    pub id: RequestId,
    /// Its context in a trace.
    pub trace: Trace,
    /// When its last header field arrived.
    pub at: Instant,
    /// Whether it has only [usual](is_usual) fields, so that other fields need not be searched for.
    pub plain: bool,
    /// The target of its path; `None` when the path is no operation's.
    pub target: Option<Target>,
    /// The reason why the connection has refused it, if it has.
    pub refused: Option<RequestError>,
}

/// Whether nearly every request has this field, and its value does not matter here.
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
    /// A request that has just arrived from `peer`. Its id is the caller's, if that is valid.
    pub fn new(request: Request<B>, peer: Peer) -> Self {
        let (head, body) = request.into_parts();
        let plain = head.headers.keys().all(is_usual);
        let given = if plain { None } else { id_from_caller(&head.headers) };
        Self {
            meta: Box::new(RequestMeta {
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
    pub fn meta(&self) -> &RequestMeta {
        &self.meta
    }

    /// Makes the layers below refuse it, after it has been counted.
    pub fn refuse(&mut self, refusal: RequestError) {
        self.meta.refused = Some(refusal);
    }

    /// Sets the caller.
    pub fn set_caller(&mut self, caller: Name) {
        self.meta.caller = caller;
    }

    /// Sets its context in a trace.
    pub fn set_trace(&mut self, trace: Trace) {
        self.meta.trace = trace;
    }

    /// Its metadata and its body.
    pub fn into_parts(self) -> (Box<RequestMeta>, B) {
        (self.meta, self.body)
    }

    /// As a plain request, with the [`Peer`] as an extension.
    pub fn into_request(self) -> Request<B> {
        let (mut head, ()) = self.meta.head.into_parts();
        head.extensions.insert(self.meta.peer);
        Request::from_parts(head, self.body)
    }
}

/// The id that the caller gave its request, if it is valid.
fn id_from_caller(fields: &HeaderMap) -> Option<RequestId> {
    RequestId::from_caller(fields.get("x-request-id")?.to_str().ok()?)
}

impl<B> RequestInfo for InboundRequest<B> {
    fn id(&self) -> RequestId {
        self.meta.id.clone()
    }

    fn uri(&self) -> &Uri {
        self.meta.head.uri()
    }

    fn operation(&self) -> Option<Operation> {
        let target = self.meta.target.as_ref();
        target.map(|target| target.endpoint.operation)
    }

    fn headers(&self) -> &HeaderMap {
        self.meta.head.headers()
    }

    fn peer(&self) -> Option<IpAddr> {
        self.meta.peer.address()
    }
}
