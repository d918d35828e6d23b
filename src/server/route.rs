//! Routes by path and method: only the operations exist.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::Method;
use tower::Service;
use tower::layer::layer_fn;

use crate::BoxError;
use crate::response::{Reply, RequestError};
use crate::scan::{Operation, Target};
use crate::server::InboundRequest;

/// The layer of [`Route`].
pub fn layer<S>() -> impl tower::Layer<S, Service = Route<S>> {
    layer_fn(Route)
}

/// Passes requests with an operation's path and method, answers `OPTIONS`, and rejects the rest.
#[derive(Clone, Debug)]
pub struct Route<S>(S);

impl<S, B> Service<InboundRequest<B>> for Route<S>
where
    S: Service<InboundRequest<B>, Response = Reply, Error = BoxError>,
{
    type Response = Reply;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<Reply, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: InboundRequest<B>) -> Self::Future {
        let meta = request.meta();
        match decide(meta.head.method(), meta.head.uri().path(), meta.target.as_ref()) {
            Ok(Decision::Through) => Either::Left(self.0.call(request)),
            Ok(Decision::Options(operation)) => Either::Right(ready(Ok(Reply::Options(operation)))),
            Err(refusal) => Either::Right(ready(Err(refusal.into()))),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Through,
    Options(Option<Operation>),
}

fn decide(method: &Method, path: &str, target: Option<&Target>) -> Result<Decision, RequestError> {
    let is_options = method == Method::OPTIONS;
    let Some(target) = target else {
        // RFC 9110 §9.3.7: `OPTIONS *` asks about the server as a whole.
        return if is_options && path == "*" {
            Ok(Decision::Options(None))
        } else {
            Err(RequestError::Path)
        };
    };
    let operation = target.endpoint.operation;
    match method {
        _ if is_options => Ok(Decision::Options(Some(operation))),
        method if operation.declaration().methods().contains(method) => Ok(Decision::Through),
        _ => Err(RequestError::Method(operation)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Endpoint, route};

    fn decided(method: &Method, path: &str) -> Result<Decision, RequestError> {
        decide(method, path, route(path).as_ref())
    }

    #[test]
    fn only_the_methods_of_an_operation_pass() {
        let lower_case = Method::from_bytes(b"get").unwrap();
        let others = [
            Method::HEAD,
            Method::PUT,
            Method::DELETE,
            Method::TRACE,
            Method::PATCH,
            Method::CONNECT,
            lower_case,
        ];
        for endpoint in Endpoint::all() {
            let path = endpoint.template().replace("{id}", "01decc");
            let operation = endpoint.operation;
            let allowed = operation.declaration().methods();
            assert_eq!(decided(&Method::OPTIONS, &path), Ok(Decision::Options(Some(operation))));
            for method in others.iter().chain(&[Method::GET, Method::POST, Method::QUERY]) {
                let expected = if allowed.contains(method) {
                    Ok(Decision::Through)
                } else {
                    Err(RequestError::Method(operation))
                };
                assert_eq!(decided(method, &path), expected, "{method} {path}");
            }
        }
        assert_eq!(decided(&Method::OPTIONS, "*"), Ok(Decision::Options(None)));
        let sibling = "/api/DeviceAuthenticatedScanDefinitions/BatchDelete";
        for path in ["/", "", "*", sibling, "/api/../api"] {
            assert_eq!(decided(&Method::POST, path), Err(RequestError::Path), "{path}");
        }
    }
}
