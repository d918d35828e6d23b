//! A region's host: the operations, as strict as their documentation.

mod answer;
mod request_parts;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::config::ROLE;
use crate::defender::answer::{Refusal, entity_document, faulty, next_link, rows_document, throttled};
use crate::defender::request_parts::Options;
use crate::entra::Claims;
use crate::fault::Fault;
use crate::history::{By, History, Kind, NextLink, SessionTop};
use crate::limit::Rejection;
use crate::operation::{Operation, route};
use crate::record::{CallRecord, Violation};
use crate::sim_state::{SimState, State};
use crate::wire::{Handler, Manner, Reply, Unread, field, read};

/// A role that includes the required one.
const WIDER_ROLE: &str = "Machine.ReadWrite.All";

/// The real bound is not documented; ours keeps a mistake from filling memory.
const LONGEST_BODY: usize = 4 * 1024 * 1024;

/// A region's host.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) name: String,
    pub(super) sim_state: Arc<SimState>,
}

/// What is known when a call has arrived, before its body.
struct Arrival {
    number: u64,
    verdict: Result<Claims, Refusal>,
    over: Option<Rejection>,
    fault: Option<Fault>,
}

impl Handler for Region {
    fn answer(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        Box::pin(async move { self.respond(request).await })
    }

    fn setup(&self) -> Duration {
        let mut state = self.sim_state.state();
        let region = state.config.region(&self.name);
        region.map_or(Duration::ZERO, |region| region.latency)
    }
}

impl Region {
    async fn respond(&self, request: Request<Incoming>) -> Reply {
        let received = Instant::now();
        let (head, body) = request.into_parts();
        let (there, back) = self.sim_state.state().trip(&self.name);
        self.sim_state.rest(there).await;
        // Counted when the head has arrived: the real service cannot know how the body will end.
        let arrival = self.arrive(&head);
        let reply = match read(body, LONGEST_BODY).await {
            Ok(body) => self.decide(&head, &body, &arrival),
            Err(Unread::TooLong) => {
                let refusal = Refusal::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "InvalidRequestBody",
                    "The body is too long.",
                );
                refusal.reply(&mut self.sim_state.state().rng)
            }
            Err(Unread::Broken) => Reply::front_end_page(StatusCode::BAD_REQUEST).delivered(Manner::Cut),
        };
        if reply.status().is_some() {
            self.sim_state.rest(back).await;
        }
        self.sim_state.journal.settled(arrival.number, |call| {
            call.status = reply.status();
            call.latency = reply.status().map(|_| received.elapsed());
        });
        reply
    }

    /// Counts and records the call.
    fn arrive(&self, head: &Parts) -> Arrival {
        let operation = operation(head);
        let options = match operation.map(asked) {
            Some(Asked::List(_)) => Options::of_list(head.uri.query()).map(|(options, _)| options),
            _ => Options::read(head.uri.query()),
        };
        let options = options.unwrap_or_default();
        let mut state = self.sim_state.state();
        // Under the lock, so that arrivals are counted in the order of their times.
        let at = self.sim_state.elapsed();
        let verdict = request_parts::bearer(&head.headers).and_then(|token| {
            let now = jiff::Timestamp::now().as_second();
            let read = state.token_service.mint.read(token, now);
            read.map_err(|bad| Refusal::unauthorized(&bad.to_string()))
        });
        let over_http2 = head.version == http::Version::HTTP_2;
        let fault = state.draw_fault(&self.name, operation.is_some());
        // Over HTTP/1.1 there are no streams to refuse.
        let fault = fault.filter(|fault| over_http2 || !fault.refuses_streams());
        // A request that is not processed is no call.
        let operation = operation.filter(|_| !fault.is_some_and(Fault::refuses_streams));
        let counted = operation.filter(|_| verdict.is_ok());
        let over = counted.and_then(|operation| state.arrive(operation, at).err());
        let number = self.sim_state.journal.arrived(CallRecord {
            at,
            region: self.name.clone(),
            method: head.method.to_string(),
            path: head.uri.path().into(),
            query: head.uri.query().map(Into::into),
            version: format!("{:?}", head.version),
            operation,
            top: options.top,
            skip: options.skip,
            token_id: verdict.as_ref().ok().map(|claims| claims.uti.clone()),
            request_id: field(head, "x-request-id"),
            headers: without_token(head),
            fault: fault.map(Fault::as_str),
            ..CallRecord::default()
        });
        if let Some(what) = violation(head) {
            self.sim_state.journal.violated(Violation { at, what });
        }
        Arrival {
            number,
            verdict,
            over,
            fault,
        }
    }

    fn decide(&self, head: &Parts, body: &Bytes, arrival: &Arrival) -> Reply {
        let ids = match operation(head).map(asked) {
            Some(Asked::Rows(by)) => request_parts::ids(by, &head.headers, body, None).ok(),
            Some(Asked::Entity(_)) => Some(vec![last_segment(head).to_owned()]),
            Some(Asked::List(_)) | None => None,
        };
        if let Some(ids) = &ids {
            self.sim_state
                .journal
                .amend(arrival.number, |call| call.ids.clone_from(ids));
        }
        let mut state = self.sim_state.state();
        let state = &mut *state;
        let proper = |state: &mut State| {
            Self::proper(head, body, arrival, state).unwrap_or_else(|refusal| refusal.reply(&mut state.rng))
        };
        match arrival.fault {
            Some(fault) => faulty(fault, state, proper),
            None => proper(state),
        }
    }

    /// The answer of a host without faults.
    fn proper(head: &Parts, body: &[u8], arrival: &Arrival, state: &mut State) -> Result<Reply, Refusal> {
        let Some((operation, id)) = route(head.uri.path()) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "NotFound", "No such resource."));
        };
        let method = operation.method();
        if head.method != method {
            let allowed = Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "BadRequest",
                "The method is not allowed.",
            );
            return Ok(allowed.reply(&mut state.rng).with(header::ALLOW, method.as_str()));
        }
        let claims = match &arrival.verdict {
            Ok(claims) => claims,
            Err(refusal) => {
                let reply = refusal.reply(&mut state.rng);
                return Ok(reply.with(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\""));
            }
        };
        if let Some(rejection) = &arrival.over {
            return Ok(throttled(rejection, &state.config, &mut state.rng));
        }
        check_claims(claims, state.config.sign_in.resource())?;
        match asked(operation) {
            Asked::Rows(by) => {
                let options = Options::read(head.uri.query())?;
                let session_top = state.config.history.session_top;
                if by == By::Session && options.top.is_some() && session_top == SessionTop::Refused {
                    return Err(Refusal::odata("The query option '$top' is not allowed."));
                }
                let ids = request_parts::ids(by, &head.headers, body, state.config.history.max_ids)?;
                rows(head, (by, &ids), options, state)
            }
            Asked::List(kind) => list(head, kind, state),
            Asked::Entity(kind) => {
                let id = id.as_deref().unwrap_or_default();
                let history = &state.config.history;
                let entity = history.entity(kind, state.generated_from(), id).ok_or_else(|| {
                    let message = format!("{id} was not found.");
                    Refusal::new(StatusCode::NOT_FOUND, "ResourceNotFound", message)
                })?;
                let context = format!("{}/$entity", collection(kind));
                Ok(good(history, entity_document(history, &context, &entity)))
            }
        }
    }
}

fn list(head: &Parts, kind: Kind, state: &State) -> Result<Reply, Refusal> {
    let history = &state.config.history;
    let (options, size_name) = Options::of_list(head.uri.query())?;
    let all = history.entities(kind, state.generated_from());
    let skip = options.skip.unwrap_or(0) as usize;
    let most = history
        .page_size
        .min(options.top.map_or(usize::MAX, |size| size as usize));
    let page: Vec<_> = all.iter().skip(skip).take(most).cloned().collect();
    let end = skip + page.len();
    // With `$top` the caller asked for a part of the list, so there is no link.
    let is_cut = end < all.len() && size_name != Some("$top") && history.next_link != NextLink::Absent;
    let next = is_cut.then(|| {
        let size = size_name.zip(options.top).map(|(name, size)| (name, size as usize));
        next_link(history, head, size, end)
    });
    Ok(good(history, rows_document(history, &collection(kind), &page, next)))
}

fn rows(head: &Parts, (by, ids): (By, &[String]), options: Options, state: &State) -> Result<Reply, Refusal> {
    let history = &state.config.history;
    let (top, skip) = (options.top.map(|n| n as usize), options.skip.unwrap_or(0) as usize);
    let page = history
        .page(by, state.generated_from(), ids, top, skip)
        .map_err(|unknown| {
            let message = match by {
                By::Definition => format!("Scan definition {unknown} was not found."),
                By::Session => format!("Scan session {unknown} was not found."),
            };
            Refusal::new(StatusCode::NOT_FOUND, "ResourceNotFound", message)
        })?;
    let next = page.next.map(|next| {
        let left = options.top.map(|top| ("$top", top as usize - (next - skip)));
        next_link(history, head, left, next)
    });
    // As observed: the path itself, without its version.
    let name = last_segment(head);
    let context = format!("DeviceAuthenticatedScanDefinitions/{name}");
    Ok(good(history, rows_document(history, &context, &page.rows, next)))
}

/// The operation that a call is for.
fn operation(head: &Parts) -> Option<Operation> {
    let (operation, _) = route(head.uri.path())?;
    (head.method == operation.method()).then_some(operation)
}

/// What an operation returns.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Rows(By),
    List(Kind),
    Entity(Kind),
}

fn asked(operation: Operation) -> Asked {
    match operation {
        Operation::HistoryByDefinition => Asked::Rows(By::Definition),
        Operation::HistoryBySession => Asked::Rows(By::Session),
        Operation::Definitions => Asked::List(Kind::Definition),
        Operation::Definition => Asked::Entity(Kind::Definition),
        Operation::Agents => Asked::List(Kind::Agent),
        Operation::Agent => Asked::Entity(Kind::Agent),
    }
}

/// The context of a list.
fn collection(kind: Kind) -> String {
    match kind {
        Kind::Definition => "$metadata#DeviceAuthenticatedScanDefinitions".into(),
        Kind::Agent => "$metadata#DeviceAuthenticatedScanAgents".into(),
    }
}

/// A good answer with this body.
fn good(history: &History, body: String) -> Reply {
    let content_type = "application/json; odata.metadata=minimal; odata.streaming=true; charset=utf-8";
    let odata_version = http::HeaderName::from_static("odata-version");
    let reply = Reply::new(StatusCode::OK, content_type, body).with(odata_version, "4.0");
    match history.age {
        Some(age) => reply.with(header::AGE, &age.as_secs().to_string()),
        None => reply,
    }
}

fn last_segment(head: &Parts) -> &str {
    head.uri.path().rsplit('/').next().unwrap_or_default()
}

/// A valid token for another audience gets 403, not 401.
fn check_claims(claims: &Claims, resource: &str) -> Result<(), Refusal> {
    let forbidden = |message: String| Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message));
    if claims.aud != resource {
        return forbidden(format!("The token's audience '{}' is not accepted.", claims.aud));
    }
    if !claims.roles.iter().any(|role| role == ROLE || role == WIDER_ROLE) {
        let roles = claims.roles.join(", ");
        return forbidden(format!(
            "Missing application roles. API required roles: {ROLE}, {WIDER_ROLE}, application roles: {roles}."
        ));
    }
    Ok(())
}

/// A request that a gateway must never send.
fn violation(head: &Parts) -> Option<String> {
    let path = head.uri.path();
    if path.to_ascii_lowercase().contains("batchdelete") {
        return Some(format!("{} {path}: the sibling that deletes was called", head.method));
    }
    let is_read = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_read && operation(head).is_none() && path.to_ascii_lowercase().starts_with("/api") {
        return Some(format!("{} {path}: a call that is no read was made", head.method));
    }
    let private = ["cookie", "forwarded", "proxy-authorization", "proxy-connection"];
    head.headers
        .keys()
        .map(http::HeaderName::as_str)
        .find(|name| private.contains(name) || name.starts_with("x-forwarded-"))
        .map(|name| format!("the field {name} was forwarded"))
}

fn without_token(head: &Parts) -> http::HeaderMap {
    let mut headers = head.headers.clone();
    headers.remove(header::AUTHORIZATION);
    headers
}
