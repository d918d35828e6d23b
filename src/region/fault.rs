//! What a failed call says about its host.

use url::{Position, Url};

use crate::attempt::{Failure, Fate};
use crate::net;

/// A failure that is the host's, or the way's to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection: the host is left at once.
    Connection,
    /// It connected, but brought no usable answer: it is left when that happens too often.
    Trouble,
}

/// Says what a failure at the host with this base address says about it; `None` when it is not the host's fault.
pub type Classify = fn(&Failure, &Url) -> Option<Fault>;

/// Looks for a network error *at this host*: a failure of the sign-in, which comes the same way, must not count against a region.
#[must_use]
pub fn classify(failure: &Failure, base: &Url) -> Option<Fault> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(failure.source.as_ref());
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<net::Error>() {
            return (error.authority() == authority(base)).then(|| match error.kind() {
                net::Kind::Connect(_) => Fault::Connection,
                _ => Fault::Trouble,
            });
        }
        cause = error.source();
    }
    // An answer came that was none: a redirect, an encoding nobody asked for.
    (failure.fate == Fate::Answered && failure.answer.is_none()).then_some(Fault::Trouble)
}

/// `host:port`, as [`net::Error::authority`] has it.
fn authority(base: &Url) -> String {
    let host = &base[Position::BeforeHost..Position::AfterHost];
    format!("{host}:{}", base.port_or_known_default().unwrap_or_default())
}
