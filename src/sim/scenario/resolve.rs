//! Turns a scenario file into a simulator's settings.

use std::path::{Path, PathBuf};

use http::StatusCode;
use serde::de::DeserializeOwned;
use toml::Spanned;

use super::{File, Span};
use crate::sim::config::{Behaviour, Config, Region};
use crate::sim::control::{Action, Event};
use crate::sim::entra::AadstsCode;
use crate::sim::fault::{Fault, Often, Plan, SignInFault};
use crate::sim::history::History;
use crate::sim::limit::{Limit, ParseLimitError};

/// Why a scenario is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("the scenario {path} cannot be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, or a key is unknown, missing or of the wrong kind. The text says where.
    #[error("{0}")]
    Malformed(#[from] toml::de::Error),
    /// A limit is none.
    #[error("a bad limit: {0}")]
    Limit(#[from] ParseLimitError),
    /// Keys that do not go together, or a value out of its range.
    #[error("{place}: {what}")]
    Wrong { place: String, what: String },
}

impl Config {
    /// These settings, changed by the scenario in `text`; the format is described in
    /// [`scenario`](crate::sim::scenario).
    ///
    /// # Errors
    /// The text is no scenario.
    pub fn with_scenario(mut self, text: &str) -> Result<Self, ScenarioError> {
        let file: File = toml::from_str(text)?;
        put(&mut self.seed, file.seed);
        self.apply_quota(&file.quota)?;
        if file.history.is_some() {
            self.history = merged(&self.history, text)?;
        }
        if self.history.page_size == 0 || self.history.max_ids == Some(0) {
            return Err(wrong("history", "page_size and max_ids must be at least 1"));
        }
        self.apply_sign_in(file.sign_in)?;
        if !file.regions.is_empty() {
            let regions = file.regions.into_iter().map(|written| region(written, text));
            self.regions = regions.collect::<Result<_, _>>()?;
        }
        let events = file.events.into_iter().enumerate();
        let events = events.map(|(index, written)| event(index + 1, written, text));
        self.schedule.extend(events.collect::<Result<Vec<_>, _>>()?);
        match self.mistake() {
            Some(what) => Err(wrong("scenario", what)),
            None => Ok(self),
        }
    }

    /// The same from a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or contains no scenario.
    pub fn with_scenario_file(self, path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path).map_err(|source| ScenarioError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        self.with_scenario(&text)
    }

    fn apply_quota(&mut self, quota: &super::Quota) -> Result<(), ScenarioError> {
        if let Some(texts) = &quota.limits {
            self.limits = limits(texts)?;
        }
        put(&mut self.scope, quota.scope);
        put(&mut self.shape, quota.shape);
        put(&mut self.rejected, quota.rejected);
        put(&mut self.throttle.header, quota.retry_after);
        put(&mut self.throttle.message, quota.message);
        Ok(())
    }

    fn apply_sign_in(&mut self, written: super::SignIn) -> Result<(), ScenarioError> {
        let rules = &mut self.sign_in;
        put(&mut rules.latency, written.latency.map(|span| span.0));
        put(&mut self.token_lifetime, written.token_lifetime.map(|span| span.0));
        rules.refresh_in = written.refresh_in.map(|span| span.0).or(rules.refresh_in);
        put(&mut rules.roles, written.roles);
        if !written.faults.is_empty() {
            rules.faults = plan("sign_in", written.faults, sign_in_fault)?;
        }
        Ok(())
    }
}

fn put<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn wrong(place: impl Into<String>, what: impl Into<String>) -> ScenarioError {
    ScenarioError::Wrong {
        place: place.into(),
        what: what.into(),
    }
}

fn limits(texts: &[String]) -> Result<Vec<Limit>, ScenarioError> {
    Ok(texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

/// `history` with the keys that `text` sets.
fn merged(history: &History, text: &str) -> Result<History, ScenarioError> {
    // All of it can be written as TOML.
    let mut keys = toml::Table::try_from(history).unwrap_or_default();
    let written = toml::from_str::<toml::Table>(text)?.remove("history");
    keys.extend(
        written
            .and_then(|written| written.try_into::<toml::Table>().ok())
            .unwrap_or_default(),
    );
    Ok(keys.try_into()?)
}

/// The line in which a table begins, for messages.
fn line<T>(written: &Spanned<T>, text: &str) -> String {
    let before = text.get(..written.span().start).unwrap_or(text);
    format!("line {}", before.matches('\n').count() + 1)
}

fn region(written: Spanned<super::Region>, text: &str) -> Result<Region, ScenarioError> {
    let (line, written) = (line(&written, text), written.into_inner());
    let faults = plan(
        &format!("{line}, region {}", written.name),
        written.faults,
        region_fault,
    )?;
    Ok(Region {
        name: written.name,
        behaviour: Behaviour {
            latency: written.latency.0,
            jitter: written.jitter.0,
            faults,
        },
    })
}

fn event(number: usize, written: Spanned<super::Event>, text: &str) -> Result<Event, ScenarioError> {
    let (line, event) = (line(&written, text), written.into_inner());
    let mut keys = Keys {
        place: format!("{line}, event {number} ({})", event.action),
        left: event.keys,
    };
    let action = match event.action.as_str() {
        "latency" => Action::Latency {
            region: keys.require("region")?,
            latency: keys.require::<Span>("latency")?.0,
            jitter: keys.take::<Span>("jitter")?.unwrap_or_default().0,
        },
        "faults" => Action::Faults {
            region: keys.take("region")?,
            plan: plan(&keys.place.clone(), keys.require("faults")?, region_fault)?,
        },
        "shut" => Action::Shut {
            region: keys.require("region")?,
        },
        "open" => Action::Open {
            region: keys.require("region")?,
        },
        "cut-connections" => Action::CutConnections {
            region: keys.take("region")?,
        },
        "limits" => Action::Limits {
            limits: limits(&keys.require::<Vec<String>>("limits")?)?,
            shape: keys.require("shape")?,
        },
        "sign-in" => Action::SignIn(plan(&keys.place.clone(), keys.require("faults")?, sign_in_fault)?),
        "other-calls" => Action::OtherCalls(keys.require("calls")?),
        "neighbour" => Action::Neighbour(keys.require("per_hour")?),
        "revoke-tokens" => Action::RevokeTokens,
        "scan" => Action::Scan,
        _ => return Err(keys.wrong("no such action")),
    };
    keys.end()?;
    Ok(Event { at: event.at.0, action })
}

fn plan<F: Copy>(
    place: &str,
    written: Vec<super::Fault>,
    read: fn(&str, &mut Keys) -> Result<F, ScenarioError>,
) -> Result<Plan<F>, ScenarioError> {
    written.into_iter().try_fold(Plan::none(), |plan, fault| {
        let mut keys = Keys {
            place: format!("{place}, fault {:?}", fault.kind),
            left: fault.keys,
        };
        let often = match (fault.share, fault.times) {
            (None, None) => Often::Always,
            (None, Some(times)) => Often::Times(times),
            (Some(share), None) if (0.0..=1.0).contains(&share) => Often::Share(share),
            (Some(_), None) => return Err(keys.wrong("share must be from 0 to 1")),
            (Some(_), Some(_)) => return Err(keys.wrong("share and times exclude each other")),
        };
        let fault = read(&fault.kind, &mut keys)?;
        keys.end()?;
        Ok(plan.and(fault, often))
    })
}

fn region_fault(kind: &str, keys: &mut Keys) -> Result<Fault, ScenarioError> {
    Ok(match kind {
        "status" => Fault::Status(keys.status()?),
        "throttle" => Fault::Throttle(keys.require::<Span>("wait")?.0),
        "busy" => Fault::Busy(keys.take::<Span>("wait")?.map(|wait| wait.0)),
        "no-licence" => Fault::NoLicence,
        "black-hole" => Fault::BlackHole,
        "cut" => Fault::Cut,
        "cut-mid-body" => Fault::CutMidBody,
        "slow-head" => Fault::SlowHead(keys.require::<Span>("over")?.0),
        "slow-body" => Fault::SlowBody(keys.require::<Span>("over")?.0),
        "rubbish" => Fault::Rubbish,
        "redirect" => Fault::Redirect,
        "portal" => Fault::Portal,
        "empty" => Fault::Empty,
        "error-in-ok" => Fault::ErrorInOk,
        "wrong-type" => Fault::WrongType,
        "page" => Fault::Page(keys.status()?),
        "refused-stream" => Fault::RefusedStream,
        "http1-required" => Fault::Http1Required,
        _ => return Err(keys.wrong(format!("a region has no fault {kind:?}"))),
    })
}

fn sign_in_fault(kind: &str, keys: &mut Keys) -> Result<SignInFault, ScenarioError> {
    Ok(match kind {
        "refuse" => {
            let number = keys.require("code")?;
            let known = AadstsCode::new(number);
            SignInFault::Refuse(known.ok_or_else(|| keys.wrong(format!("{number} is no documented AADSTS number")))?)
        }
        "throttle" => SignInFault::Throttle,
        "status" => SignInFault::Status(keys.status()?),
        "hang" => SignInFault::Hang,
        "cut" => SignInFault::Cut,
        "rubbish" => SignInFault::Rubbish,
        "no-token" => SignInFault::NoToken,
        "redirect" => SignInFault::Redirect,
        "slow" => SignInFault::Slow(keys.require::<Span>("over")?.0),
        _ => return Err(keys.wrong(format!("sign-in has no fault {kind:?}"))),
    })
}

/// The keys of an event or a fault that depend on its kind.
struct Keys {
    place: String,
    left: toml::Table,
}

impl Keys {
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, ScenarioError> {
        let value = self.left.remove(key).map(toml::Value::try_into).transpose();
        value.map_err(|error| self.wrong(format!("{key}: {}", error.message())))
    }

    fn require<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, ScenarioError> {
        self.take(key)?.ok_or_else(|| self.wrong(format!("{key} is missing")))
    }

    fn status(&mut self) -> Result<StatusCode, ScenarioError> {
        let number = self.require("status")?;
        match StatusCode::from_u16(number) {
            Ok(status) if status.is_client_error() || status.is_server_error() => Ok(status),
            _ => Err(self.wrong(format!("{number} is no error status"))),
        }
    }

    /// Refuses the keys that were not taken.
    fn end(self) -> Result<(), ScenarioError> {
        match self.left.keys().next() {
            Some(key) => Err(self.wrong(format!("{key} has no meaning here"))),
            None => Ok(()),
        }
    }

    fn wrong(&self, what: impl Into<String>) -> ScenarioError {
        wrong(self.place.as_str(), what)
    }
}
