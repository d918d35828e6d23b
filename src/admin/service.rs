//! Answers requests to the admin listener: which paths there are, who may ask, and in which format
//! a scraper wants its metrics.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use tower::Service;

use super::page::Page;
use super::{State, View};
use crate::response::Body;
use crate::server::guard::{Host, Hosts, refuse_cross_site};
use crate::server::{Address, Config, Peer};
use crate::telemetry::metrics::Exposition;

/// Limits for the admin listener at `address`: a handful of probes, scrapers and people.
pub fn listener(address: Address) -> Config {
    Config {
        listen: vec![address],
        // With `idle_min`, 1,280 new ones a second find a place: the kubelet's among them.
        max_connections: 128,
        // What it has to say, the kubelet says at once.
        idle_min: Duration::from_millis(100),
        head_bytes: 1 << 20,
        socket_buffer: 16 << 10,
        large_answers: None,
        max_streams: 16,
        header_timeout: Duration::from_secs(5),
        // Longer than a scrape interval, so that scrapers keep their connection.
        idle_timeout: Duration::from_secs(90),
        linger: Duration::ZERO,
        drain: Duration::from_secs(2),
    }
}

/// The admin listener's service. Clones show the same.
#[derive(Clone)]
pub struct Admin {
    view: Arc<View>,
    page: Arc<Page>,
}

impl Admin {
    /// Shows `view`.
    pub fn new(view: View) -> Self {
        Self {
            view: Arc::new(view),
            page: Arc::new(Page::new()),
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let target = target(request.method(), request.uri().path());
        match Host::of(request) {
            Ok(host) if self.is_foreign(&host, request, target) => {
                return text(
                    StatusCode::MISDIRECTED_REQUEST,
                    "this Host is not one of the gateway's names: use an address or localhost, or add it to server.hosts",
                );
            }
            Ok(_) => {}
            // HTTP/1.0 has no Host, and no browser speaks it.
            Err(_) if request.version() == Version::HTTP_10 && !request.headers().contains_key(header::HOST) => {}
            Err(_) => return text(StatusCode::BAD_REQUEST, "the request needs exactly one valid Host"),
        }
        match target {
            Ok(Target::Page) => self.page.answer(),
            Ok(Target::Probe(probe)) => self.probe(probe, request.uri().query()),
            Ok(Target::Metrics) => {
                let exposition = exposition_for(request.headers());
                content(exposition.content_type(), (self.view.metrics)(exposition).into())
            }
            Ok(Target::Status) => content("application/json", (self.view.status)().to_string().into()),
            Ok(Target::History) => content("application/json", (self.view.history)().to_string().into()),
            Ok(Target::OpenApi) => content("application/json", self.view.openapi.clone()),
            Ok(Target::Quit) => self.quit(request),
            Err(RouteError::Path) => text(StatusCode::NOT_FOUND, NOTHING_HERE),
            Err(RouteError::Method(allowed)) => {
                let line = format!("the method is not allowed here; use one of {allowed}");
                allowing(text(StatusCode::METHOD_NOT_ALLOWED, &line), allowed)
            }
            Err(RouteError::Options(allowed)) => {
                let mut answer = Response::new(Body::default());
                *answer.status_mut() = StatusCode::NO_CONTENT;
                allowing(answer, allowed)
            }
        }
    }

    /// Whether the host is a name that a web page may have had pointed here.
    fn is_foreign<B>(&self, host: &Host, request: &Request<B>, target: Result<Target, RouteError>) -> bool {
        let peer = request.extensions().get::<Peer>();
        let bare_probe = matches!(target, Ok(Target::Probe(_))) && !is_verbose(request.uri().query());
        is_forbidden(host, request.headers(), peer)
            && !(bare_probe && may_probe(request.headers(), peer))
            && !(self.view.named)(host, peer)
    }

    fn probe(&self, probe: Probe, query: Option<&str>) -> Response<Body> {
        let state = self.view.health.state();
        let good = match probe {
            // While this can answer, a restart would help nobody; least of all during the drain.
            Probe::Live => true,
            Probe::Startup => state != State::Starting,
            Probe::Ready => state == State::Ready,
        };
        let status = if good {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        if !is_verbose(query) {
            return text(status, state.as_str());
        }
        let lines = (self.view.checks)().into_iter().map(|check| {
            let mark = if check.ok { '+' } else { '-' };
            format!("[{mark}] {}: {}\n", check.name, check.text)
        });
        text(status, &(lines.collect::<String>() + state.as_str()))
    }

    fn quit<B>(&self, request: &Request<B>) -> Response<Body> {
        let Some(quit) = &self.view.quit else {
            return text(StatusCode::NOT_FOUND, "not switched on (admin.quit)");
        };
        let peer = request.extensions().get::<Peer>();
        // Only loopback names: a page that has its name point here must not get through.
        let allowed = peer.is_some_and(Peer::is_local)
            && Host::of(request).is_ok_and(|host| {
                Hosts::default().accept(&host, peer) && refuse_cross_site(request.headers(), &host).is_ok()
            });
        if !allowed {
            return text(StatusCode::FORBIDDEN, "only from this machine, and not from a web page");
        }
        tracing::info!("asked to quit");
        quit();
        text(StatusCode::OK, "draining")
    }
}

impl<B> Service<Request<B>> for Admin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}

/// What to do instead.
const NOTHING_HERE: &str = "there is nothing at this path; here are /livez, /readyz and /startupz for probes, /metrics, /status, /history, \
                            /openapi.json and, for people, /; callers ask at the addresses of server.listen";

fn is_verbose(query: Option<&str>) -> bool {
    let mut options = query.unwrap_or("").split('&');
    options.any(|option| option == "verbose" || option.starts_with("verbose="))
}

fn allowing(mut answer: Response<Body>, methods: &'static str) -> Response<Body> {
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(methods));
    answer
}

fn text(status: StatusCode, line: &str) -> Response<Body> {
    let mut answer = content("text/plain; charset=utf-8", format!("{line}\n").into());
    *answer.status_mut() = status;
    answer
}

/// Figures of this moment: never to be stored, and never to be taken for something else than they
/// are.
pub(super) fn content(media: &'static str, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::new(body));
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Which of the probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Live,
    Ready,
    Startup,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Page,
    Probe(Probe),
    Metrics,
    Status,
    History,
    OpenApi,
    Quit,
}

/// Why a request is for nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RouteError {
    Path,
    /// The methods that the path does have.
    Method(&'static str),
    /// `OPTIONS` asks for them.
    Options(&'static str),
}

fn target(method: &Method, path: &str) -> Result<Target, RouteError> {
    // RFC 9110 §9.3.7: about the server as a whole.
    if path == "*" && method == Method::OPTIONS {
        return Err(RouteError::Options("GET, HEAD"));
    }
    let target = match path {
        "/" => Target::Page,
        "/livez" | "/livez/" => Target::Probe(Probe::Live),
        "/readyz" | "/readyz/" => Target::Probe(Probe::Ready),
        "/startupz" | "/startupz/" => Target::Probe(Probe::Startup),
        "/metrics" => Target::Metrics,
        "/status" => Target::Status,
        "/history" => Target::History,
        "/openapi.json" => Target::OpenApi,
        "/quitquitquit" => Target::Quit,
        _ => return Err(RouteError::Path),
    };
    match (target, method) {
        // A prefetched link or an image's address must not stop anything.
        (Target::Quit, &Method::POST) => Ok(target),
        (Target::Quit, _) => Err(RouteError::Method("POST")),
        // `OPTIONS` is what HAProxy asks probes with by default.
        (Target::Probe(_), &Method::OPTIONS) | (_, &Method::GET | &Method::HEAD) => Ok(target),
        (_, &Method::OPTIONS) => Err(RouteError::Options("GET, HEAD")),
        _ => Err(RouteError::Method("GET, HEAD")),
    }
}

/// Whether a request for `host`, which is none of the gateway's names, may come from a web page
/// that has had the name pointed here, so that a browser takes this address for the page's own (DNS
/// rebinding).
///
/// A rebound page needs a name: addresses are good. Probes and scrapers of other machines use
/// whatever name the cluster or their list of targets gives this one, and are no browsers. On this
/// machine nobody needs a foreign name.
fn is_forbidden(host: &Host, fields: &HeaderMap, peer: Option<&Peer>) -> bool {
    match host {
        Host::Ip(_) => false,
        Host::Name(_) => peer.is_none_or(|peer| peer.is_local() && !peer.is_unix()) || is_browser(fields),
    }
}

/// Whether a request for a bare probe's word may be answered whatever host it names: the word is of
/// no use to a page, and load balancers name what they please. On this machine they have to look
/// like one, because there a page's browser is the likelier guest.
fn may_probe(fields: &HeaderMap, peer: Option<&Peer>) -> bool {
    let far = peer.is_some_and(|peer| !peer.is_local());
    far || (fields.contains_key(header::USER_AGENT) && !is_browser(fields))
}

/// Browsers say so in at least one of these. `Sec-Fetch-Site` and its kin are sent to trustworthy
/// addresses only, which a rebound name is not.
fn is_browser(fields: &HeaderMap) -> bool {
    const UPGRADE: HeaderName = HeaderName::from_static("upgrade-insecure-requests");
    const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let said = [header::ORIGIN, header::REFERER, header::ACCEPT_LANGUAGE, UPGRADE, SITE];
    let agent = fields
        .get(header::USER_AGENT)
        .map_or(&b""[..], |agent| agent.as_bytes());
    said.iter().any(|name| fields.contains_key(name)) || agent.starts_with(b"Mozilla/")
}

/// `OpenMetrics` when the scraper names it and likes it no less than plain text, otherwise text,
/// which everybody reads.
fn exposition_for(fields: &HeaderMap) -> Exposition {
    let lines = fields
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|line| line.to_str().ok());
    let (mut open, mut text) = (0.0_f32, 0.0_f32);
    for media in lines.flat_map(|line| line.split(',')) {
        let mut parts = media.split(';').map(str::trim);
        let name = parts.next().unwrap_or("");
        let weight = parts
            .find_map(|part| part.strip_prefix("q="))
            .map_or(1.0, |q| q.parse().unwrap_or(0.0));
        if name.eq_ignore_ascii_case("application/openmetrics-text") {
            open = open.max(weight);
        } else if name.eq_ignore_ascii_case("text/plain") {
            text = text.max(weight);
        }
    }
    if open > 0.0 && open >= text {
        Exposition::OpenMetrics
    } else {
        Exposition::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str) -> Exposition {
        let mut fields = HeaderMap::new();
        fields.insert(header::ACCEPT, accept.parse().unwrap());
        exposition_for(&fields)
    }

    #[test]
    fn scrapers_get_what_they_ask_for() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(of(prometheus), Exposition::OpenMetrics);
        assert_eq!(of("application/openmetrics-text"), Exposition::OpenMetrics);
        for text in [
            "*/*",
            "text/html",
            "",
            "text/plain, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
        ] {
            assert_eq!(of(text), Exposition::Text, "{text}");
        }
        assert_eq!(exposition_for(&HeaderMap::new()), Exposition::Text);
    }
}
