//! `probe`: tries the real thing and says what it is like.
//!
//! Every call is paid from the same ledger as the gateway's, state file included. It knows nothing
//! of calls that a running gateway makes meanwhile: probe before the gateway starts, or leave it
//! some quota.

mod findings;

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use super::process::{block_on, seal, watch_signals};
use super::{Error, Probe, print};
use crate::app::{NoAnswer, OneShotClient};
use crate::config::{self, Disk, Environment, Resolved};
use crate::scan::{Endpoint, Request, Rows, SplitError};
use crate::secret::Secret;
use crate::token::{self, Roles};
use findings::{Report, accepted, advise_against_merging, count, fields, found_out, order, scope};

/// Signs in, measures the regions, makes one small call and as many more as asked for; prints the
/// evidence and recommends settings.
///
/// # Errors
/// The configuration is wrong, sign-in or Defender refuses the credentials, or nothing can be
/// reached.
pub fn probe(asked: &Probe) -> Result<(), Error> {
    // Best done, and nothing to stop for.
    let _ = seal();
    let loaded = config::load(asked.config.config.as_deref(), &Environment::real(), &Disk)?;
    let ids = Ids::try_new(&asked.ids)?;
    block_on(None, async move {
        let [stop, _] = watch_signals()?;
        let mut report = Report::default();
        let outcome = tokio::select! {
            outcome = run(&loaded.resolved, &ids, asked.calls, &mut report) => outcome,
            () = stop.cancelled() => Err(Error::user("stopped")),
        };
        // What was found out before an error is worth reading.
        print(&report.to_string())?;
        outcome
    })
}

/// An id that looks like one and names nothing.
const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

/// For sign-in, for the measurements, and for a slot: a quota in use gives one at least every
/// minute.
const SIGN_IN: Duration = Duration::from_secs(20);
const MEASURING: Duration = Duration::from_secs(5);
const SLOT: Duration = Duration::from_secs(90);

/// The definitions to ask for, in canonical form and order.
#[derive(Debug)]
struct Ids(Vec<String>);

impl Ids {
    fn try_new(ids: &[String]) -> Result<Self, Error> {
        if ids.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let request = Request::plain(Endpoint::HISTORY, ids.iter().map(String::as_str));
        let request = request.map_err(|invalid| Error::user(format!("--id: {invalid}")))?;
        Ok(Self(request.ids().map(Into::into).collect()))
    }
}

/// Finds out what there is to find out with one call and `calls` more.
async fn run(config: &Resolved, ids: &Ids, calls: u32, report: &mut Report) -> Result<(), Error> {
    let one_shot_client = OneShotClient::open(config).map_err(|error| Error::failed("cannot reach out", error))?;
    let mut throttled = None;
    let experiments = async {
        let bearer = sign_in(&one_shot_client, report).await?;
        regions(&one_shot_client, report).await?;
        let mut experiment = Experiment {
            one_shot_client: &one_shot_client,
            bearer: bearer.secret(),
            left: calls.saturating_add(1),
            throttled: &mut throttled,
            report,
        };
        experiment.calls(ids, calls).await
    };
    let outcome = experiments.await;
    found_out(config, report);
    scope(throttled.as_deref(), report);
    report.say("quota", one_shot_client.quota().left());
    one_shot_client.close().await;
    outcome
}

async fn sign_in(one_shot_client: &OneShotClient, report: &mut Report) -> Result<token::Bearer, Error> {
    let bearer = one_shot_client.token_source().bearer(Instant::now() + SIGN_IN).await;
    let snapshot = one_shot_client.token_source().snapshot();
    let bearer = bearer.map_err(|error| match error {
        token::Error::Refused { .. } => Error::user(error.to_string()),
        token::Error::Unavailable { .. } => Error::failed("no token", error),
    })?;
    let life = snapshot.expires_in.unwrap_or_default().as_secs() / 60;
    let roles = match snapshot.roles {
        Roles::Sufficient => "it holds the role Machine.Read.All or Machine.ReadWrite.All",
        Roles::Missing => "it LACKS the role Machine.Read.All",
        Roles::Unknown => "its roles cannot be read",
    };
    report.say(
        "sign-in",
        format!("{}: a token for {life} min; {roles}", snapshot.kind.as_str()),
    );
    for warning in &snapshot.warnings {
        report.say("warning", warning.to_string());
    }
    Ok(bearer)
}

async fn regions(one_shot_client: &OneShotClient, report: &mut Report) -> Result<(), Error> {
    let mut rows = one_shot_client.measured(MEASURING).await;
    rows.sort_by_key(|row| row.rtt.unwrap_or(Duration::MAX));
    for row in &rows {
        let time = row.rtt.map_or_else(
            || "not reached".into(),
            |rtt| format!("{:.1} ms to connect", rtt.as_secs_f64() * 1000.0),
        );
        let mark = if row.selected { ", selected" } else { "" };
        let url = row.url.as_str().trim_end_matches('/');
        report.say("region", format!("{} {url}: {time}{mark}", row.label));
    }
    if rows.iter().all(|row| row.rtt.is_none()) {
        return Err(Error::failed("no region can be reached", NoAnswer::NoRegion));
    }
    Ok(())
}

/// Asks, as long as calls are left.
struct Experiment<'a> {
    one_shot_client: &'a OneShotClient,
    bearer: &'a Secret,
    left: u32,
    /// What a 429 said.
    throttled: &'a mut Option<String>,
    report: &'a mut Report,
}

impl Experiment<'_> {
    async fn calls(&mut self, ids: &Ids, calls: u32) -> Result<(), Error> {
        let Some(first) = ids.0.first() else {
            let Some(answer) = self.ask(&[NOBODY], "").await? else {
                return Ok(());
            };
            accepted(&answer, &[StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST], self.roles())?;
            let outcome = answer.status();
            self.report.say(
                "call",
                format!("{outcome} for an id that does not exist: the token is accepted"),
            );
            self.report.say(
                "answers",
                "not looked at: name two or more of your scan definitions with --id ID --id ID, and add --calls 8",
            );
            return Ok(());
        };
        let Some(alone) = self.ask(&[first], "").await? else {
            return Ok(());
        };
        accepted(&alone, &[], self.roles())?;
        let text = format!("{} for one id, {} rows", alone.status(), count(alone.body()));
        self.report.say("call", text);
        fields(alone.body(), self.report);
        if ids.0.len() < 2 || calls == 0 {
            let text = "not looked at: it takes two or more --id and --calls 8 or more";
            self.report.say("sharing", text);
            return Ok(());
        }
        self.sharing(ids, alone.body()).await
    }

    /// What the token may do.
    fn roles(&self) -> Roles {
        self.one_shot_client.token_source().snapshot().roles
    }

    /// The answer to a request for `ids`, written as they are; `None` when no call is left for it.
    async fn ask(&mut self, ids: &[&str], query: &str) -> Result<Option<Response<Bytes>>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let body = json!({ "ScanDefinitionIds": ids }).to_string();
        let answer = self
            .one_shot_client
            .ask(self.bearer, query, body.into(), Instant::now() + SLOT)
            .await;
        let answer = answer.map_err(|error| Error::failed("a call to Defender", error))?;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            let text = String::from_utf8_lossy(answer.body()).into_owned();
            *self.throttled = Some(text.clone());
            return Err(Error::failed(
                "Defender says that the quota is used up; others use the same app",
                text,
            ));
        }
        Ok(Some(answer))
    }

    /// Compares answers to several ids at once with answers to each.
    async fn sharing(&mut self, ids: &Ids, first: &Bytes) -> Result<(), Error> {
        let all: Vec<&str> = ids.0.iter().map(String::as_str).collect();
        let Some(together) = self.ask(&all, "").await? else {
            return Ok(());
        };
        if together.status().is_server_error() {
            let text = format!("not known: {} for {} ids in one call", together.status(), all.len());
            self.report.say("sharing", text);
            return Ok(());
        }
        let split = match together.status() {
            StatusCode::OK => Request::plain(Endpoint::HISTORY, all.iter().copied())
                .map_err(|_| SplitError::Shape)
                .and_then(|request| Rows::split(&request, together.body()))
                .map_err(|split_error| split_error.to_string()),
            status => Err(format!("{status} for {} ids in one call", all.len())),
        };
        let rows = match split {
            Ok(rows) => rows,
            Err(why) => {
                self.report.say("sharing", format!("no: {why}"));
                advise_against_merging(self.report);
                return Ok(());
            }
        };
        self.report.say("order", order(&rows));
        let mut same = rows.only(|id| id == 0) == *first;
        let mut compared = 1;
        for (at, id) in all.iter().enumerate().skip(1) {
            // The other requests are worth a call each, too.
            if self.left <= 5 && compared > 1 {
                break;
            }
            let Some(alone) = self.ask(&[id], "").await? else {
                break;
            };
            if alone.status() != StatusCode::OK {
                break;
            }
            same &= rows.only(|of| of == at) == *alone.body();
            compared += 1;
        }
        let verdict = if same { "the same bytes" } else { "NOT the same bytes" };
        let (found, asked) = (rows.len(), all.len());
        self.report.say(
            "sharing",
            format!("{found} rows for {asked} ids in one call; taken apart, {verdict} as {compared} calls alone"),
        );
        self.oddities(&all, first, together.body()).await?;
        if !same {
            advise_against_merging(self.report);
        } else if compared > 1 && !rows.is_empty() {
            // Two or three ids of one operation are less than the gateway itself asks for, of each
            // operation and version.
            let text = "nothing here speaks against merging; history by session and /api/v1.0/ were not looked at: \
                        keep merge.enabled = \"auto\", which finds that out for each";
            self.report.say("sharing", text);
        } else {
            let text = "not known: too few rows or calls to tell; keep merge.enabled = \"auto\"";
            self.report.say("sharing", text);
        }
        Ok(())
    }

    /// What else is not documented, one call each.
    async fn oddities(&mut self, all: &[&str], first: &Bytes, together: &Bytes) -> Result<(), Error> {
        let id = all.first().copied().unwrap_or(NOBODY);
        let reversed: Vec<_> = all.iter().rev().copied().collect();
        let upper = id.to_uppercase();
        let cases: [(&str, &[&str], &str, &Bytes); 5] = [
            ("ids in reverse", &reversed, "", together),
            ("id in capitals", &[&upper], "", first),
            ("id twice", &[id, id], "", first),
            ("unknown id too", &[id, NOBODY], "", first),
            ("$top=10000", all, "$top=10000", together),
        ];
        for (what, ids, query, expected) in cases {
            let Some(answer) = self.ask(ids, query).await? else {
                return Ok(());
            };
            let verdict = match answer.status() {
                StatusCode::OK if answer.body() == expected => "the same answer".to_owned(),
                StatusCode::OK => {
                    let (rows, usual) = (count(answer.body()), count(expected));
                    format!("another answer, {rows} rows instead of {usual}")
                }
                status => format!("{status}"),
            };
            self.report.say("odd", format!("{what}: {verdict}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
