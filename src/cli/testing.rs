//! An admin listener for tests that answers as it is told.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::admin_client::AdminAddress;
use crate::task::Tasks;

/// How the listener answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answers {
    /// With this status, and the word `draining`.
    Always(u16),
    /// With 503 so many times, then with 200.
    AfterRefusals(usize),
    /// There is no listener.
    Never,
}

/// A running listener.
#[derive(Debug)]
pub(super) struct Answering {
    pub(super) admin: AdminAddress,
    paths: Arc<Mutex<Vec<String>>>,
    _directory: Option<tempfile::TempDir>,
}

impl Answering {
    pub(super) async fn tcp(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = AdminAddress::Tcp(listener.local_addr().unwrap().to_string());
        let paths = Arc::default();
        let (tasks, seen) = (Tasks::new(), Arc::clone(&paths));
        if !matches!(answers, Answers::Never) {
            tasks.spawn_upkeep("answers", async move {
                while let Ok((stream, _)) = listener.accept().await {
                    serve(stream, answers, &seen).await;
                }
            });
        }
        Self {
            admin,
            paths,
            _directory: None,
        }
    }

    pub(super) fn unix(answers: Answers) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let paths = Arc::default();
        let (tasks, seen) = (Tasks::new(), Arc::clone(&paths));
        tasks.spawn_upkeep("answers", async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, answers, &seen).await;
            }
        });
        Self {
            admin: AdminAddress::Unix(path.to_str().unwrap().to_owned()),
            paths,
            _directory: Some(directory),
        }
    }

    /// What was asked for so far.
    pub(super) fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, answers: Answers, seen: &Mutex<Vec<String>>) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let asked = {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(request.uri().path().to_owned());
            seen.len()
        };
        let status = match answers {
            Answers::Always(status) => status,
            Answers::AfterRefusals(refusals) if asked > refusals => 200,
            Answers::AfterRefusals(_) | Answers::Never => 503,
        };
        let answer = Response::builder()
            .status(status)
            .body(Full::new(Bytes::from("draining\n")));
        Ok::<_, Infallible>(answer.unwrap())
    });
    let connection = hyper::server::conn::http1::Builder::new();
    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
}
