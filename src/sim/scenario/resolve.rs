//! Turns a scenario file into a simulator's settings.

use std::path::{Path, PathBuf};

use http::StatusCode;

use super::written::{self, File};
use crate::sim::action::{Action, Event};
use crate::sim::config::{Behaviour, Config, Region};
use crate::sim::entra::AadstsCode;
use crate::sim::fault::{Fault, Often, Plan, SignInFault};
use crate::sim::limit::{Limit, ParseLimitError};

/// Why a scenario is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("the scenario {path} cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
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
    Wrong {
        /// The table.
        place: String,
        /// The problem.
        what: String,
    },
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
        self.apply_history(&file.history)?;
        self.apply_sign_in(file.sign_in)?;
        if !file.regions.is_empty() {
            self.regions = file.regions.into_iter().map(region).collect::<Result<_, _>>()?;
        }
        let events = file.events.into_iter().enumerate();
        self.schedule.extend(events.map(event).collect::<Result<Vec<_>, _>>()?);
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

    fn apply_quota(&mut self, quota: &written::Quota) -> Result<(), ScenarioError> {
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

    fn apply_history(&mut self, written: &written::History) -> Result<(), ScenarioError> {
        let history = &mut self.history;
        put(&mut history.casing, written.casing);
        put(&mut history.order, written.order);
        put(&mut history.unknown, written.unknown);
        put(&mut history.matching, written.matching);
        put(&mut history.duplicates, written.duplicates);
        put(&mut history.page_size, written.page_size);
        put(&mut history.next_link, written.next_link);
        put(&mut history.layout, written.layout);
        put(&mut history.envelope, written.envelope);
        put(&mut history.definitions, written.definitions);
        put(&mut history.agents, written.agents);
        put(&mut history.entity, written.entity);
        put(&mut history.running, written.running);
        put(&mut history.secrets, written.secrets);
        history.age = written.age.map(|span| span.0).or(history.age);
        history.max_ids = written.max_ids.or(history.max_ids);
        if history.page_size == 0 || history.max_ids == Some(0) {
            return Err(wrong("history", "page_size and max_ids must be at least 1"));
        }
        Ok(())
    }

    fn apply_sign_in(&mut self, written: written::SignIn) -> Result<(), ScenarioError> {
        let rules = &mut self.sign_in;
        put(&mut rules.latency, written.latency.map(|span| span.0));
        put(&mut self.token_lifetime, written.token_lifetime.map(|span| span.0));
        rules.refresh_in = written.refresh_in.map(|span| span.0).or(rules.refresh_in);
        put(&mut rules.roles, written.roles);
        if !written.faults.is_empty() {
            rules.faults = sign_in_plan("sign_in", &written.faults)?;
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

fn region(written: written::Region) -> Result<Region, ScenarioError> {
    let faults = region_plan(&format!("region {}", written.name), &written.faults)?;
    Ok(Region {
        name: written.name,
        behaviour: Behaviour {
            latency: written.latency.0,
            jitter: written.jitter.0,
            faults,
        },
    })
}

fn event((number, event): (usize, written::Event)) -> Result<Event, ScenarioError> {
    let place = format!("event {} ({})", number + 1, event.action);
    let given = [
        ("region", event.region.is_some()),
        ("latency", event.latency.is_some()),
        ("jitter", event.jitter.is_some()),
        ("faults", event.faults.is_some()),
        ("limits", event.limits.is_some()),
        ("shape", event.shape.is_some()),
        ("calls", event.calls.is_some()),
        ("per_hour", event.per_hour.is_some()),
    ];
    let takes: &[&str] = match event.action.as_str() {
        "latency" => &["region", "latency", "jitter"],
        "faults" => &["region", "faults"],
        "shut" | "open" | "cut-connections" => &["region"],
        "limits" => &["limits", "shape"],
        "sign-in" => &["faults"],
        "other-calls" => &["calls"],
        "neighbour" => &["per_hour"],
        "revoke-tokens" | "scan" => &[],
        _ => return Err(wrong(place, "no such action")),
    };
    check_keys(&place, &given, takes)?;
    let need = |key: &str| wrong(place.as_str(), format!("{key} is missing"));
    let region = event.region;
    let action = match event.action.as_str() {
        "latency" => Action::Latency {
            region: region.ok_or_else(|| need("region"))?,
            latency: event.latency.ok_or_else(|| need("latency"))?.0,
            jitter: event.jitter.unwrap_or_default().0,
        },
        "faults" => Action::Faults {
            region,
            plan: region_plan(&place, &event.faults.ok_or_else(|| need("faults"))?)?,
        },
        "shut" => Action::Shut {
            region: region.ok_or_else(|| need("region"))?,
        },
        "open" => Action::Open {
            region: region.ok_or_else(|| need("region"))?,
        },
        "cut-connections" => Action::CutConnections { region },
        "limits" => Action::Limits {
            limits: limits(&event.limits.ok_or_else(|| need("limits"))?)?,
            shape: event.shape.ok_or_else(|| need("shape"))?,
        },
        "sign-in" => Action::SignIn(sign_in_plan(&place, &event.faults.ok_or_else(|| need("faults"))?)?),
        "other-calls" => Action::OtherCalls(event.calls.ok_or_else(|| need("calls"))?),
        "neighbour" => Action::Neighbour(event.per_hour.ok_or_else(|| need("per_hour"))?),
        "revoke-tokens" => Action::RevokeTokens,
        _ => Action::Scan,
    };
    Ok(Event { at: event.at.0, action })
}

fn region_plan(place: &str, written: &[written::Fault]) -> Result<Plan<Fault>, ScenarioError> {
    plan(place, written, |fault| {
        let (takes, made): (&[&str], Option<Fault>) = match fault.kind.as_str() {
            "status" => (&["status"], status(place, fault)?.map(Fault::Status)),
            "throttle" => (&["wait"], fault.wait.map(|wait| Fault::Throttle(wait.0))),
            "busy" => (&["wait"], Some(Fault::Busy(fault.wait.map(|wait| wait.0)))),
            "slow-head" => (&["over"], fault.over.map(|over| Fault::SlowHead(over.0))),
            "slow-body" => (&["over"], fault.over.map(|over| Fault::SlowBody(over.0))),
            "no-licence" => (&[], Some(Fault::NoLicence)),
            "black-hole" => (&[], Some(Fault::BlackHole)),
            "cut" => (&[], Some(Fault::Cut)),
            "cut-mid-body" => (&[], Some(Fault::CutMidBody)),
            "rubbish" => (&[], Some(Fault::Rubbish)),
            "redirect" => (&[], Some(Fault::Redirect)),
            "portal" => (&[], Some(Fault::Portal)),
            "empty" => (&[], Some(Fault::Empty)),
            "error-in-ok" => (&[], Some(Fault::ErrorInOk)),
            "wrong-type" => (&[], Some(Fault::WrongType)),
            "page" => (&["status"], status(place, fault)?.map(Fault::Page)),
            "refused-stream" => (&[], Some(Fault::RefusedStream)),
            "http1-required" => (&[], Some(Fault::Http1Required)),
            _ => return Err(wrong(place, format!("a region has no fault {:?}", fault.kind))),
        };
        Ok((takes, made))
    })
}

fn sign_in_plan(place: &str, written: &[written::Fault]) -> Result<Plan<SignInFault>, ScenarioError> {
    plan(place, written, |fault| {
        let (takes, made): (&[&str], Option<SignInFault>) = match fault.kind.as_str() {
            "refuse" => (&["code"], code(place, fault)?.map(SignInFault::Refuse)),
            "status" => (&["status"], status(place, fault)?.map(SignInFault::Status)),
            "slow" => (&["over"], fault.over.map(|over| SignInFault::Slow(over.0))),
            "throttle" => (&[], Some(SignInFault::Throttle)),
            "hang" => (&[], Some(SignInFault::Hang)),
            "cut" => (&[], Some(SignInFault::Cut)),
            "rubbish" => (&[], Some(SignInFault::Rubbish)),
            "no-token" => (&[], Some(SignInFault::NoToken)),
            "redirect" => (&[], Some(SignInFault::Redirect)),
            _ => return Err(wrong(place, format!("sign-in has no fault {:?}", fault.kind))),
        };
        Ok((takes, made))
    })
}

/// The keys of a kind of fault, and the fault if all of them are there.
type Built<F> = Result<(&'static [&'static str], Option<F>), ScenarioError>;

fn plan<F: Copy>(
    place: &str,
    written: &[written::Fault],
    build: impl Fn(&written::Fault) -> Built<F>,
) -> Result<Plan<F>, ScenarioError> {
    written.iter().try_fold(Plan::none(), |plan, fault| {
        let place = format!("{place}, fault {:?}", fault.kind);
        let given = [
            ("status", fault.status.is_some()),
            ("code", fault.code.is_some()),
            ("wait", fault.wait.is_some()),
            ("over", fault.over.is_some()),
        ];
        let (takes, made) = build(fault)?;
        check_keys(&place, &given, takes)?;
        let made = made.ok_or_else(|| wrong(place.as_str(), format!("{} is missing", takes.join(", "))))?;
        Ok(plan.and(made, often(&place, fault)?))
    })
}

fn check_keys(place: &str, given: &[(&str, bool)], takes: &[&str]) -> Result<(), ScenarioError> {
    match given.iter().find(|(key, given)| *given && !takes.contains(key)) {
        Some((key, _)) => Err(wrong(place, format!("{key} has no meaning here"))),
        None => Ok(()),
    }
}

fn often(place: &str, fault: &written::Fault) -> Result<Often, ScenarioError> {
    match (fault.share, fault.times) {
        (None, None) => Ok(Often::Always),
        (None, Some(times)) => Ok(Often::Times(times)),
        (Some(share), None) if (0.0..=1.0).contains(&share) => Ok(Often::Share(share)),
        (Some(_), None) => Err(wrong(place, "share must be from 0 to 1")),
        (Some(_), Some(_)) => Err(wrong(place, "share and times exclude each other")),
    }
}

fn status(place: &str, fault: &written::Fault) -> Result<Option<StatusCode>, ScenarioError> {
    let Some(number) = fault.status else { return Ok(None) };
    match StatusCode::from_u16(number) {
        Ok(status) if status.is_client_error() || status.is_server_error() => Ok(Some(status)),
        _ => Err(wrong(place, format!("{number} is no error status"))),
    }
}

fn code(place: &str, fault: &written::Fault) -> Result<Option<AadstsCode>, ScenarioError> {
    let Some(number) = fault.code else { return Ok(None) };
    let known = AadstsCode::new(number).map(Some);
    known.ok_or_else(|| wrong(place, format!("{number} is no documented AADSTS number")))
}
