//! Why there is no token.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::aadsts;
use super::metrics::Outcome;
use crate::telemetry::{log, named_enum};

/// Why there is no token. It is cloned for every request that waited for it.
///
/// `Display` may be shown to callers: it contains codes and what to do, never files, addresses or
/// secrets.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The credentials do not work, and will not until the operator changes something.
    #[error("the gateway cannot sign in: {code}: {}", aadsts::advice(code))]
    Refused {
        /// What sign-in, or the gateway itself, rejected.
        code: Code,
        /// Sign-in's message, or the name of the file; for operators.
        message: Arc<str>,
        /// How long until the next attempt.
        retry_after: Duration,
    },
    /// Sign-in cannot be reached, is overloaded or out of order, which is temporary.
    #[error("sign-in is unavailable: {reason}")]
    Unavailable {
        /// What happened.
        reason: Reason,
        /// Sign-in's message; for operators.
        message: Arc<str>,
        /// How long until the next attempt, when it is known.
        retry_after: Option<Duration>,
        /// The transport's error.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
}

impl Error {
    /// When to ask again, for `Retry-After`.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => Some(*retry_after),
            Self::Unavailable { retry_after, .. } => *retry_after,
        }
    }

    /// A short name for logs and `/status`: `AADSTS7000215`, `HTTP 503`, `Unreachable`.
    pub fn code(&self) -> String {
        match self {
            Self::Refused { code, .. } => code.to_string(),
            Self::Unavailable { reason, .. } => reason.code(),
        }
    }

    /// Sign-in's message, or what went wrong here; for operators.
    pub fn message(&self) -> String {
        let (Self::Refused { message, .. } | Self::Unavailable { message, .. }) = self;
        if !message.is_empty() {
            // The code stands beside it.
            let code = format!("{}: ", self.code());
            return message.strip_prefix(&*code).unwrap_or(message).to_owned();
        }
        match self {
            Self::Unavailable {
                source: Some(source), ..
            } => log::chain(source.as_ref()),
            Self::Unavailable { reason, .. } => reason.to_string(),
            Self::Refused { .. } => String::new(),
        }
    }

    /// How the token request ended, for metrics and traces.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Refused { .. } => Outcome::Refused,
            Self::Unavailable { .. } => Outcome::Unavailable,
        }
    }

    /// What to do, in one sentence.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => aadsts::advice(code),
            Self::Unavailable { reason, .. } => reason.advice(),
        }
    }

    /// The same failure, with `wait` until the next attempt.
    pub(super) fn retried_in(mut self, wait: Duration) -> Self {
        match &mut self {
            Self::Refused { retry_after, .. } => *retry_after = wait,
            Self::Unavailable { retry_after, .. } => *retry_after = Some(wait),
        }
        self
    }

    pub(super) fn unusable(problem: Problem, message: impl Into<Arc<str>>) -> Self {
        Self::Refused {
            code: Code::Local(problem),
            message: message.into(),
            retry_after: Duration::ZERO,
        }
    }

    pub(super) fn unavailable(reason: Reason) -> Self {
        Self::Unavailable {
            reason,
            message: Arc::default(),
            retry_after: None,
            source: None,
        }
    }
}

/// What was asked for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The authority, or a token proxy in its place.
    Entra,
    /// The metadata service of a virtual machine, which issues a managed identity's tokens.
    Imds,
    /// The same of App Service, Functions and Container Apps.
    AppService,
}

/// The code of a rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// Entra's number.
    Aadsts(u32),
    /// OAuth's error code (RFC 6749 §5.2), when there is no number.
    OAuth(Arc<str>),
    /// The status, when the response contains nothing else, and whose it is.
    Http(Endpoint, StatusCode),
    /// The gateway's own check failed: nothing was sent.
    Local(Problem),
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aadsts(number) => write!(f, "AADSTS{number}"),
            Self::OAuth(word) => f.write_str(word),
            Self::Http(_, status) => write!(f, "HTTP {}", status.as_u16()),
            Self::Local(problem) => f.write_str(problem.as_str()),
        }
    }
}

named_enum! {
    /// What is wrong with a credential before it is sent.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Problem, as_str {
        /// A credential file cannot be read.
        FileUnreadable = "CredentialFileUnreadable",
        /// A credential file is empty, too long or contains something else.
        FileUnusable = "CredentialFileUnusable",
        /// There is no PEM certificate.
        NoCertificate = "CertificateMissing",
        /// There is no PEM private key.
        NoPrivateKey = "PrivateKeyMissing",
        /// The private key is protected by a passphrase.
        KeyEncrypted = "PrivateKeyEncrypted",
        /// The key is not an RSA key of 2048 to 4096 bits.
        KeyNotRsa = "PrivateKeyNotRsa",
        /// Certificate and private key do not belong together.
        KeyMismatch = "PrivateKeyMismatch",
    }
}

/// Why sign-in gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// There was no connection, or it was lost.
    #[error("it cannot be reached")]
    Unreachable(Endpoint),
    /// There was no answer in the time that one exchange may take.
    #[error("it does not answer")]
    TimedOut(Endpoint),
    /// Too many requests.
    #[error("it asks to wait")]
    Throttled,
    /// A failure of the service itself.
    #[error("it failed with {code}")]
    Failed { code: Code },
    /// The response is no token: a redirect, or a login page of the network.
    #[error("its answer was not a token")]
    Unreadable,
    /// The caller's deadline passed first.
    #[error("no token came in time")]
    NotInTime,
    /// The gateway is shutting down.
    #[error("the gateway is stopping")]
    Stopped,
}

impl Endpoint {
    /// What to do when it cannot be reached.
    fn advice(self) -> &'static str {
        match self {
            Self::Entra => "check that the sign-in address can be reached from here: name resolution, firewall, proxy",
            Self::Imds => {
                "the machine's metadata service cannot be reached from here: pods may be kept from it (by the node pool or a \
                 NetworkPolicy), or this is no Azure machine; workload identity needs none of it"
            }
            Self::AppService => {
                "the identity endpoint that the platform names in IDENTITY_ENDPOINT cannot be reached from here: check that the \
                 identity is assigned to this app, and restart the app"
            }
        }
    }
}

impl Reason {
    fn code(&self) -> String {
        match self {
            Self::Unreachable(_) => "Unreachable".into(),
            Self::TimedOut(_) => "TimedOut".into(),
            Self::Throttled => "Throttled".into(),
            Self::Failed { code } => code.to_string(),
            Self::Unreadable => "UnreadableAnswer".into(),
            Self::NotInTime => "NotInTime".into(),
            Self::Stopped => "Stopping".into(),
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Unreachable(endpoint) | Self::TimedOut(endpoint) => endpoint.advice(),
            Self::Throttled => "wait; if it lasts, look for other programs that sign in as the same app too often",
            Self::Failed { code } => aadsts::advice(code),
            Self::Unreadable => "check the authority address, and that no proxy or login page answers in its place",
            Self::NotInTime | Self::Stopped => "try again",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_see_the_code_and_advice_but_no_file() {
        let refused = Error::unusable(Problem::FileUnreadable, "/etc/secret: not found");
        assert_eq!(
            refused.to_string(),
            format!(
                "the gateway cannot sign in: CredentialFileUnreadable: {}",
                refused.advice()
            )
        );
        assert!(!refused.to_string().contains("/etc"), "{refused}");
        assert!(refused.message().contains("/etc/secret"));
    }

    #[test]
    fn a_message_falls_back_to_the_transport_errors_chain() {
        let io = std::io::Error::other("connection refused");
        let error = Error::Unavailable {
            reason: Reason::Unreachable(Endpoint::Entra),
            message: Arc::default(),
            retry_after: None,
            source: Some(Arc::new(io)),
        };
        assert_eq!(error.message(), "connection refused");
        assert_eq!(error.code(), "Unreachable");
    }
}
