//! The faults of hosts and of sign-in, and how often they happen.

use std::time::Duration;

use http::StatusCode;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::entra::AadstsCode;
use super::{scenario, span};

/// What a region's host does instead of a proper answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// An error status. 502, 503 and 504 come as a front end's HTML page, all others in Defender's
    /// error shape.
    Status(#[serde(deserialize_with = "status")] StatusCode),
    /// 429 although the limits have room, as if another client used the same app registration. The
    /// stated wait is this long.
    Throttle(#[serde(deserialize_with = "wait")] Duration),
    /// 429 because the upstream is short of CPU: it names no limit and charges none. With
    /// `Retry-After`, in whole seconds, or without.
    Busy(#[serde(deserialize_with = "wait_if_said")] Option<Duration>),
    /// 401 for a valid token: the tenant has no licence for vulnerability management.
    NoLicence,
    /// The call is accepted and never answered; the connection stays open.
    BlackHole,
    /// The connection is reset before any byte of an answer.
    Cut,
    /// The head and half of the body are sent, then the connection is reset.
    CutMidBody,
    /// The first bytes of the head take this long. (HTTP/1.1: the head is incomplete until then.)
    SlowHead(#[serde(deserialize_with = "over")] Duration),
    /// The body takes this long, in small pieces.
    SlowBody(#[serde(deserialize_with = "over")] Duration),
    /// 200 with a body that is no JSON: an answer that was cut off.
    Rubbish,
    /// 200 with an HTML page, as portals and maintenance pages send it.
    Portal,
    /// 200 with an empty body.
    Empty,
    /// 200 with an error in Defender's shape.
    ErrorInOk,
    /// A proper answer with the content type of HTML.
    WrongType,
    /// 302 to another host. A client with a token must not follow it.
    Redirect,
    /// This status with a front end's HTML page, whatever format Defender itself uses with it: the
    /// host is not the service.
    Page(#[serde(deserialize_with = "status")] StatusCode),
    /// Over HTTP/2 the stream is refused before anything is processed (`REFUSED_STREAM`), and the
    /// call does not count. No fault over HTTP/1.1.
    RefusedStream,
    /// Over HTTP/2 the host asks for HTTP/1.1 before anything is processed, and the call does not
    /// count. No fault over HTTP/1.1.
    Http1Required,
}

impl Fault {
    /// Whether a request that gets it over HTTP/2 is not processed at all.
    pub(super) fn refuses_streams(self) -> bool {
        matches!(self, Self::RefusedStream | Self::Http1Required)
    }

    /// The name in scenario files and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::Throttle(_) => "throttle",
            Self::Busy(_) => "busy",
            Self::NoLicence => "no-licence",
            Self::BlackHole => "black-hole",
            Self::Cut => "cut",
            Self::CutMidBody => "cut-mid-body",
            Self::SlowHead(_) => "slow-head",
            Self::SlowBody(_) => "slow-body",
            Self::Rubbish => "rubbish",
            Self::Portal => "portal",
            Self::Empty => "empty",
            Self::ErrorInOk => "error-in-ok",
            Self::WrongType => "wrong-type",
            Self::Redirect => "redirect",
            Self::Page(_) => "page",
            Self::RefusedStream => "refused-stream",
            Self::Http1Required => "http1-required",
        }
    }
}

/// What sign-in does instead of issuing a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignInFault {
    /// An error with this AADSTS code; [`AadstsCode`] lists the documented ones.
    Refuse(#[serde(deserialize_with = "code")] AadstsCode),
    /// 429, plain text, `Retry-After: 60`: what client credentials get when they ask too often.
    Throttle,
    /// An error status with a front end's HTML page.
    Status(#[serde(deserialize_with = "status")] StatusCode),
    /// The request is accepted and never answered.
    Hang,
    /// The connection is reset before any byte of an answer.
    Cut,
    /// 200 with a body that is no JSON.
    Rubbish,
    /// 200 with JSON that contains no token.
    NoToken,
    /// 302 to another host. Credentials must not follow it.
    Redirect,
    /// A proper answer that takes this long.
    Slow(#[serde(deserialize_with = "over")] Duration),
}

/// How often a fault happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Often {
    /// To all calls, until it is removed.
    Always,
    /// To this share of the calls, 0 to 1.
    Share(f64),
    /// To the next calls, this many.
    Times(u32),
}

/// Faults, and how often each happens. The first one that happens is used.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Vec<Written>", bound = "F: Copy + DeserializeOwned")]
pub struct Plan<F> {
    faults: Vec<(F, Often)>,
}

impl<F> Default for Plan<F> {
    fn default() -> Self {
        Self { faults: Vec::new() }
    }
}

impl<F: Copy> Plan<F> {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// One fault.
    pub fn of(fault: F, often: Often) -> Self {
        Self::none().and(fault, often)
    }

    /// Adds a fault that happens when those before it do not.
    pub fn and(mut self, fault: F, often: Often) -> Self {
        self.faults.push((fault, often));
        self
    }

    /// The fault of a request that is no call: only one that always happens, so that probing uses
    /// up no counts.
    pub(super) fn standing(&self) -> Option<F> {
        let always = self.faults.iter().find(|(_, often)| *often == Often::Always);
        always.map(|(fault, _)| *fault)
    }

    /// The fault of the next call.
    pub(super) fn draw(&mut self, rng: &mut super::rng::Rng) -> Option<F> {
        let drawn = self.faults.iter_mut().find_map(|(fault, often)| {
            let happens = match often {
                Often::Always => true,
                Often::Share(share) => rng.hits(*share),
                Often::Times(left) => {
                    let happens = *left > 0;
                    *left = left.saturating_sub(1);
                    happens
                }
            };
            happens.then_some(*fault)
        });
        self.faults.retain(|(_, often)| *often != Often::Times(0));
        drawn
    }
}

/// A fault in a scenario file. Which other keys there are depends on its kind.
#[derive(Debug, Deserialize)]
struct Written {
    kind: String,
    share: Option<f64>,
    times: Option<u32>,
    #[serde(flatten)]
    keys: toml::Table,
}

impl<F: Copy + DeserializeOwned> TryFrom<Vec<Written>> for Plan<F> {
    type Error = String;

    fn try_from(faults: Vec<Written>) -> Result<Self, String> {
        faults.into_iter().try_fold(Self::none(), |plan, fault| {
            let often = match (fault.share, fault.times) {
                (None, None) => Often::Always,
                (None, Some(times)) => Often::Times(times),
                (Some(share), None) if (0.0..=1.0).contains(&share) => Often::Share(share),
                (Some(_), None) => return Err(format!("fault {:?}: share must be from 0 to 1", fault.kind)),
                (Some(_), Some(_)) => {
                    return Err(format!("fault {:?}: share and times exclude each other", fault.kind));
                }
            };
            let fault = scenario::variant(fault.kind, fault.keys).map_err(|error| format!("fault {error}"))?;
            Ok(plan.and(fault, often))
        })
    }
}

/// Reads the keys of a fault that has this one only.
macro_rules! only_key {
    ($key:ident: $type:ty, $with:literal) => {
        fn $key<'de, D: Deserializer<'de>>(keys: D) -> Result<$type, D::Error> {
            #[derive(Deserialize)]
            #[serde(deny_unknown_fields)]
            struct Keys {
                #[serde(deserialize_with = $with)]
                $key: $type,
            }
            Keys::deserialize(keys).map(|keys| keys.$key)
        }
    };
}

only_key!(status: StatusCode, "error_status");
only_key!(wait: Duration, "span::deserialize");
only_key!(over: Duration, "span::deserialize");
only_key!(code: AadstsCode, "documented");

fn wait_if_said<'de, D: Deserializer<'de>>(keys: D) -> Result<Option<Duration>, D::Error> {
    let keys = toml::Table::deserialize(keys)?;
    let is_said = !keys.is_empty();
    is_said.then(|| wait(keys).map_err(D::Error::custom)).transpose()
}

fn error_status<'de, D: Deserializer<'de>>(number: D) -> Result<StatusCode, D::Error> {
    let number = u16::deserialize(number)?;
    let status = StatusCode::from_u16(number).ok();
    let status = status.filter(|status| status.is_client_error() || status.is_server_error());
    status.ok_or_else(|| D::Error::custom(format!("{number} is no error status")))
}

fn documented<'de, D: Deserializer<'de>>(number: D) -> Result<AadstsCode, D::Error> {
    let number = u32::deserialize(number)?;
    AadstsCode::new(number).ok_or_else(|| D::Error::custom(format!("{number} is no documented AADSTS number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn a_plan_for_some_times_ends() {
        let mut plan = Plan::of(Fault::Cut, Often::Times(2)).and(Fault::Rubbish, Often::Times(1));
        let mut rng = Rng::new(1);
        let drawn: Vec<_> = (0..4).map(|_| plan.draw(&mut rng)).collect();
        assert_eq!(drawn, [Some(Fault::Cut), Some(Fault::Cut), Some(Fault::Rubbish), None]);
        assert_eq!(plan, Plan::none());
    }

    #[test]
    fn a_share_of_the_calls_is_hit() {
        let mut plan = Plan::of(Fault::BlackHole, Often::Share(0.1));
        let mut rng = Rng::new(1);
        let hit = (0..10_000).filter(|_| plan.draw(&mut rng).is_some()).count();
        assert!((900..1_100).contains(&hit), "{hit}");
    }
}
