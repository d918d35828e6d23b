//! Why a command ended badly, and whose fault that is.

use std::process::ExitCode;

use crate::BoxError;
use crate::config::Mistakes;
use crate::telemetry::log;

/// A command that did not do what was asked. `Display` is what the user reads, after `error: `.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user can mend it: bad configuration or arguments, refused credentials, an address nobody
    /// answers at. Exit status 1.
    #[error("{0}")]
    User(String),
    /// Mistakes in the configuration. Exit status 1.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// Another error, which the user has been told in full.
    #[error(transparent)]
    Told(Box<Self>),
    /// The user cannot mend it by changing what was typed. Exit status 2.
    #[error("{what}")]
    Failed {
        /// What did not work.
        what: String,
        /// Why.
        source: BoxError,
    },
}

impl Error {
    /// Something that the user can mend.
    pub fn user(what: impl Into<String>) -> Self {
        Self::User(what.into())
    }

    /// Something that the user cannot mend.
    pub fn failed(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Failed {
            what: what.into(),
            source: source.into(),
        }
    }

    /// 1 for what the user can mend, 2 otherwise.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::User(_) | Self::Mistakes(_) => ExitCode::from(1),
            Self::Told(error) => error.exit_code(),
            Self::Failed { .. } => ExitCode::from(2),
        }
    }

    /// The error and its causes, each on its line, as printed to stderr; empty when that has been
    /// done.
    pub fn explain(&self) -> String {
        if matches!(self, Self::Told(_)) {
            return String::new();
        }
        // Each mistake begins with its file and line, as editors and continuous integration like
        // it.
        if let Self::Mistakes(mistakes) = self {
            let count = mistakes.list().len();
            let noun = if count == 1 { "mistake" } else { "mistakes" };
            return format!("{mistakes}\n{count} {noun} in the configuration");
        }
        let mut text = format!("error: {self}");
        for cause in log::causes(self).skip(1) {
            text = format!("{text}\n  because: {cause}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_names_every_cause_once() {
        let inner = std::io::Error::other("disk on fire");
        let error = Error::failed("cannot listen", inner);
        assert_eq!(error.explain(), "error: cannot listen\n  because: disk on fire");
        assert_eq!(Error::user("no such file").explain(), "error: no such file");
    }
}
