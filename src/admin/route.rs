//! Paths and methods of the admin listener.

use http::Method;

/// Which of the probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Live,
    Ready,
    Startup,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
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
pub(super) enum RouteError {
    Path,
    /// The methods that the path does have.
    Method(&'static str),
    /// `OPTIONS` asks for them.
    Options(&'static str),
}

pub(super) fn target(method: &Method, path: &str) -> Result<Target, RouteError> {
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
