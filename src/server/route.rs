//! Path and method: the one operation, and nothing else.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::Method;
use tower::Service;

use crate::BoxError;
use crate::respond::{Refusal, Reply};
use crate::scan::Version;
use crate::server::Arrival;

/// Lets `POST` and `QUERY` on the operation's paths through, answers `OPTIONS`, refuses the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layer;

impl<S> tower::Layer<S> for Layer {
    type Service = Route<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Route(inner)
    }
}

/// The service of [`Layer`].
#[derive(Clone, Debug)]
pub struct Route<S>(S);

impl<S, B> Service<Arrival<B>> for Route<S>
where
    S: Service<Arrival<B>, Response = Reply, Error = BoxError>,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<Reply, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Arrival<B>) -> Self::Future {
        let head = &request.known().head;
        match decide(head.method(), head.uri().path()) {
            Ok(Way::Through) => Either::Left(self.0.call(request)),
            Ok(Way::Options) => Either::Right(ready(Ok(Reply::Options))),
            Err(refusal) => Either::Right(ready(Err(refusal.into()))),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Way {
    Through,
    Options,
}

fn decide(method: &Method, path: &str) -> Result<Way, Refusal> {
    // RFC 9110 §9.3.7: `OPTIONS *` asks about the server as a whole, which has this one operation.
    if Version::from_path(path).is_none() && !(path == "*" && method == Method::OPTIONS) {
        return Err(Refusal::Path);
    }
    match *method {
        Method::POST | Method::QUERY => Ok(Way::Through),
        Method::OPTIONS => Ok(Way::Options),
        _ => Err(Refusal::Method),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_operation_passes() {
        for version in Version::ALL {
            assert_eq!(decide(&Method::POST, version.path()), Ok(Way::Through));
            assert_eq!(decide(&Method::QUERY, version.path()), Ok(Way::Through));
            assert_eq!(decide(&Method::OPTIONS, version.path()), Ok(Way::Options));
            for method in [
                Method::GET,
                Method::HEAD,
                Method::PUT,
                Method::DELETE,
                Method::TRACE,
                Method::PATCH,
            ] {
                assert_eq!(decide(&method, version.path()), Err(Refusal::Method));
            }
        }
        assert_eq!(decide(&Method::OPTIONS, "*"), Ok(Way::Options));
        let sibling = "/api/DeviceAuthenticatedScanDefinitions/BatchDelete";
        for path in [
            "/",
            "",
            "*",
            sibling,
            "/api/../api",
            &format!("{}/", Version::Latest.path()),
        ] {
            assert_eq!(decide(&Method::POST, path), Err(Refusal::Path), "{path}");
        }
    }
}
