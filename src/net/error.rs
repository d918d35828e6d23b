//! Why a connection or an exchange failed, and whether the request may have been processed.

use crate::telemetry::named_enum;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::response;
use rustix::io::Errno;

/// A client cannot be built from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The CA file is unreadable or not PEM.
    #[error("the CA file {} cannot be read", path.display())]
    CaFile {
        path: PathBuf,
        #[source]
        cause: rustls_pki_types::pem::Error,
    },
    /// The CA file contains no certificate.
    #[error("the CA file {} holds no certificate", .0.display())]
    CaFileEmpty(PathBuf),
    /// A text of CA certificates is not PEM.
    #[error("the CA certificates cannot be read")]
    CaText(#[source] rustls_pki_types::pem::Error),
    /// A text of CA certificates contains none.
    #[error("there is no CA certificate")]
    CaTextEmpty,
    /// A server name is neither a DNS name nor an address.
    #[error("{0:?} is no server name")]
    ServerName(String),
    /// TLS rejects the settings or a certificate.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

named_enum! {
    /// The steps of setting up a connection, in order.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Step, as_str {
        /// Resolving the host's addresses.
        Resolve = "name resolution",
        /// TCP, to the host or to the proxy.
        Dial = "tcp connection",
        /// The proxy's answer to `CONNECT`.
        Tunnel = "proxy tunnel",
        /// The TLS handshake.
        Tls = "tls handshake",
    }
}

/// A connection could not be set up; nothing of any request was written.
#[derive(Clone, Debug)]
pub struct ConnectError {
    authority: Arc<str>,
    step: Step,
    /// `None` when its time was over.
    cause: Option<Arc<io::Error>>,
}

impl ConnectError {
    pub(super) fn failed(authority: &Arc<str>, step: Step, cause: io::Error) -> Self {
        Self {
            authority: Arc::clone(authority),
            step,
            cause: Some(Arc::new(cause)),
        }
    }

    pub(super) fn timed_out(authority: &Arc<str>, step: Step) -> Self {
        Self {
            authority: Arc::clone(authority),
            step,
            cause: None,
        }
    }

    /// The step that failed.
    #[cfg(test)]
    pub fn step(&self) -> Step {
        self.step
    }

    /// Whether its time was over.
    pub fn is_timeout(&self) -> bool {
        self.cause.is_none()
    }

    /// Whether this side may open no more files, which says nothing about the host.
    pub fn is_local(&self) -> bool {
        let code = self.cause.as_ref().and_then(|cause| cause.raw_os_error());
        matches!(code.map(Errno::from_raw_os_error), Some(Errno::MFILE | Errno::NFILE))
    }

    /// Whether a proxy does not let this side through, which all of its members will do alike.
    pub(super) fn is_refusal(&self) -> bool {
        let cause = self.cause.as_ref().map(|cause| cause.kind());
        self.step == Step::Tunnel && cause == Some(io::ErrorKind::PermissionDenied)
    }

    /// Whether a proxy has not answered at all, which no host behind it can explain.
    pub(super) fn is_silence_of_proxy(&self) -> bool {
        let cause = self.cause.as_ref().map(|cause| cause.kind());
        self.step == Step::Tunnel && !matches!(cause, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::Other))
    }

    /// The error token of RFC 9209 §2.3.
    pub fn proxy_status(&self) -> &'static str {
        let Some(cause) = &self.cause else {
            return match self.step {
                Step::Resolve => "dns_timeout",
                Step::Dial | Step::Tunnel | Step::Tls => "connection_timeout",
            };
        };
        match (self.step, cause.kind()) {
            _ if self.is_local() => "proxy_internal_error",
            (Step::Resolve, _) => "dns_error",
            (Step::Dial, io::ErrorKind::ConnectionRefused) => "connection_refused",
            (Step::Dial, io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                "destination_ip_unroutable"
            }
            (Step::Dial, io::ErrorKind::TimedOut) => "connection_timeout",
            (Step::Dial | Step::Tunnel, _) => "destination_unavailable",
            (Step::Tls, _) => match rustls_error(cause) {
                Some(rustls::Error::InvalidCertificate(_)) => "tls_certificate_error",
                Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
                Some(_) => "tls_protocol_error",
                None => "connection_terminated",
            },
        }
    }
}

fn rustls_error(cause: &io::Error) -> Option<&rustls::Error> {
    cause.get_ref()?.downcast_ref()
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.is_timeout() { "took too long" } else { "failed" };
        write!(f, "{} for {} {how}", self.step.as_str(), self.authority)
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|cause| cause.as_ref() as _)
    }
}

/// Why an exchange has no complete answer.
#[derive(Debug, thiserror::Error)]
#[error("the exchange with {authority} failed")]
pub struct Error {
    authority: Arc<str>,
    #[source]
    kind: Kind,
    head: Option<Box<response::Parts>>,
}

/// What went wrong in an exchange, in the order of its phases.
#[derive(Debug, thiserror::Error)]
pub enum Kind {
    /// There was no connection. Nothing was written.
    #[error("no connection")]
    Connect(#[source] ConnectError),
    /// A connection was closed, or turned out not to speak HTTP, before it took the request, and no
    /// other took it. Nothing was written.
    #[error("the connection closed before the request was written")]
    NotSent(#[source] hyper::Error),
    /// The host said over HTTP/2, again and again, that it has processed nothing of the request. It
    /// counts as not sent.
    #[error("the host refuses to process the request")]
    NotProcessed(#[source] hyper::Error),
    /// The request's address is not absolute, which is a mistake in this program.
    #[error("the request cannot be sent")]
    Unsendable,
    /// The connection was lost between the request and the head of the answer.
    #[error("the connection was lost before an answer came")]
    Lost(#[source] hyper::Error),
    /// The head of an answer did not arrive in time.
    #[error("no answer in time")]
    HeadTimeout,
    /// The connection was lost within the answer's body.
    #[error("the connection was lost within the answer")]
    BodyLost(#[source] crate::BoxError),
    /// The body was not complete in time.
    #[error("the answer was not complete in time")]
    BodyTimeout,
    /// The body is longer than allowed.
    #[error("the answer is longer than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: usize },
    /// There was no memory for the body, and none was released in time.
    #[error("the answer could not be read")]
    NoMemory(#[source] crate::memory::Exhausted),
}

impl Kind {
    /// Whether another address of the host may have done better.
    pub(super) fn is_of_address(&self) -> bool {
        match self {
            Self::NotSent(_)
            | Self::NotProcessed(_)
            | Self::Lost(_)
            | Self::HeadTimeout
            | Self::BodyLost(_)
            | Self::BodyTimeout => true,
            // The first is recorded where it happens, and the others are of this side's making.
            Self::Connect(_) | Self::Unsendable | Self::BodyTooLarge { .. } | Self::NoMemory(_) => false,
        }
    }
}

impl Error {
    pub(super) fn new(authority: &Arc<str>, kind: Kind) -> Self {
        Self {
            authority: Arc::clone(authority),
            kind,
            head: None,
        }
    }

    /// The error of an exchange whose answer had this head.
    pub(super) fn after(self, head: response::Parts) -> Self {
        Self {
            head: Some(Box::new(head)),
            ..self
        }
    }

    /// The head of the answer, if it had arrived.
    pub fn head(&self) -> Option<&response::Parts> {
        self.head.as_deref()
    }

    /// `host:port` of the destination.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What went wrong.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Whether the host has provably processed nothing of the request: no byte was written, or the
    /// host itself said so.
    pub fn is_unprocessed(&self) -> bool {
        matches!(
            self.kind,
            Kind::Connect(_) | Kind::NotSent(_) | Kind::NotProcessed(_) | Kind::Unsendable
        )
    }

    /// Whether the head of an answer had arrived, so that the request certainly had, too.
    pub fn is_answered(&self) -> bool {
        matches!(
            self.kind,
            Kind::BodyLost(_) | Kind::BodyTimeout | Kind::BodyTooLarge { .. } | Kind::NoMemory(_)
        )
    }

    /// Whether its time was over.
    pub fn is_timeout(&self) -> bool {
        match &self.kind {
            Kind::Connect(error) => error.is_timeout(),
            Kind::HeadTimeout | Kind::BodyTimeout => true,
            _ => false,
        }
    }

    /// The error token of RFC 9209 §2.3.
    pub fn proxy_status(&self) -> &'static str {
        match &self.kind {
            Kind::Connect(error) => error.proxy_status(),
            Kind::NotSent(_) | Kind::NotProcessed(_) | Kind::Lost(_) => "connection_terminated",
            Kind::Unsendable | Kind::NoMemory(_) => "proxy_internal_error",
            Kind::HeadTimeout | Kind::BodyTimeout => "http_response_timeout",
            Kind::BodyLost(_) => "http_response_incomplete",
            Kind::BodyTooLarge { .. } => "http_response_body_size",
        }
    }
}
