//! What `/readyz?verbose` lists: for people, it decides nothing.

use super::problems::Standing;
use super::status::Status;
use crate::admin::Check;
use crate::quota;

impl Status {
    /// Sign-in, regions and quota, and then the problems there are.
    pub(super) fn checks(&self) -> impl Fn() -> Vec<Check> + Send + Sync + 'static {
        let status = self.clone();
        move || {
            let checks = [status.check_sign_in(), status.check_regions(), status.check_quota()];
            let problems = status.problems.look();
            checks.into_iter().chain(problems.iter().map(check)).collect()
        }
    }

    fn check_sign_in(&self) -> Check {
        let snapshot = self.sources.current().token_source.part.snapshot();
        let (ok, mut text) = match (&snapshot.last_error, snapshot.expires_in) {
            (None, Some(left)) => (true, format!("token for another {} s", left.as_secs())),
            (None, None) => (false, "no token yet".to_owned()),
            (Some(error), Some(left)) => (
                false,
                format!(
                    "{}; the token at hand lasts another {} s; {}",
                    error.code,
                    left.as_secs(),
                    error.advice
                ),
            ),
            (Some(error), None) => (
                false,
                format!("no token: {}: {}; {}", error.code, error.message, error.advice),
            ),
        };
        for warning in &snapshot.warnings {
            text = format!("{text}; {warning}");
        }
        Check {
            name: "sign-in",
            ok: ok && snapshot.warnings.is_empty(),
            text,
        }
    }

    fn check_regions(&self) -> Check {
        let rows = self.sources.current().regions.part.snapshot();
        let healthy = rows.iter().filter(|row| row.healthy).count();
        let selected = rows
            .iter()
            .find(|row| row.selected)
            .map_or("none selected", |row| &row.label);
        Check {
            name: "regions",
            ok: healthy > 0,
            text: format!("{healthy} of {} healthy; {selected}", rows.len()),
        }
    }

    fn check_quota(&self) -> Check {
        let snapshots = self.sources.quotas().map(quota::Quota::snapshot);
        // The one that orders the longest pause speaks for all, and one that is lost before it.
        let worst = snapshots.max_by_key(|snapshot| (snapshot.unavailable_for, snapshot.paused));
        let Some(snapshot) = worst else {
            return Check {
                name: "quota",
                ok: true,
                text: String::new(),
            };
        };
        let text = match snapshot.paused {
            _ if snapshot.unavailable_for.is_some() => "the store is lost, so no call may leave".to_owned(),
            Some(pause) => format!("the upstream ordered a pause of another {} s", pause.as_secs()),
            None => snapshot.left(),
        };
        Check {
            name: "quota",
            ok: snapshot.paused.is_none() && snapshot.unavailable_for.is_none(),
            text,
        }
    }
}

fn check(standing: &Standing) -> Check {
    let problem = &standing.problem;
    Check {
        name: problem.code.as_str(),
        ok: false,
        text: format!(
            "for {} s: {}; {}",
            standing.since.elapsed().as_secs(),
            problem.message,
            problem.advice
        ),
    }
}
