//! What hyper costs when there is nothing to do besides: no gateway on hyper can cost less.
//!
//! `bare ADDRESS FILE` reads every request whole and answers it with the file; `bare ADDRESS
//! HOST:PORT` has that server answer it, over connections that are kept. On one thread.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

mod upstream;

use upstream::Upstream;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Where answers come from.
#[derive(Clone)]
enum Source {
    Constant(Bytes),
    Upstream(Upstream),
}

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(source)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bare ADDRESS FILE|HOST:PORT".into());
    };
    let source = match source.parse::<SocketAddr>() {
        Ok(upstream) => Source::Upstream(Upstream::new(upstream)),
        Err(_) => Source::Constant(std::fs::read(source)?.into()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(&address, source))
}

async fn serve(address: &str, source: Source) -> Result<(), Error> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let source = source.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| reply(request, source.clone()));
            let http = auto::Builder::new(TokioExecutor::new());
            // What goes wrong with a connection is its peer's business.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn reply(request: Request<Incoming>, source: Source) -> Result<Response<Full<Bytes>>, Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let answer = match source {
        Source::Constant(answer) => answer,
        Source::Upstream(upstream) => upstream.ask(head.uri.path(), body).await?,
    };
    let mut response = Response::new(Full::new(answer));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
