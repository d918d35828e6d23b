//! What `/readyz?verbose` lists: for people, it decides nothing.

use super::problems::Standing;
use super::status::Status;
use crate::admin::Check;
use crate::quota;

impl Status {
    /// Sign-in, regions and quota, and then the problems there are.
    pub(super) fn checks(&self) -> Vec<Check> {
        let checks = [self.check_sign_in(), self.check_regions(), self.check_quota()];
        let problems = self.problems.look();
        checks.into_iter().chain(problems.iter().map(check)).collect()
    }

    fn check_sign_in(&self) -> Check {
        let snapshot = self.sources.current().token_source.part.snapshot();
        let error = snapshot.last_error.as_ref();
        let mut text = match (error, snapshot.expires_in.map(|left| left.as_secs())) {
            (None, Some(left)) => format!("token for another {left} s"),
            (None, None) => "no token yet".to_owned(),
            (Some(error), Some(left)) => {
                format!(
                    "{}; the token at hand lasts another {left} s; {}",
                    error.code, error.advice
                )
            }
            (Some(error), None) => format!("no token: {}: {}; {}", error.code, error.message, error.advice),
        };
        let ok = error.is_none() && snapshot.expires_in.is_some();
        for warning in &snapshot.warnings {
            text = format!("{text}; {warning}");
        }
        Check::new("sign-in", ok && snapshot.warnings.is_empty(), text)
    }

    fn check_regions(&self) -> Check {
        let rows = self.sources.current().regions.part.snapshot();
        let healthy = rows.iter().filter(|row| row.healthy).count();
        let selected = rows
            .iter()
            .find(|row| row.selected)
            .map_or("none selected", |row| &row.label);
        let text = format!("{healthy} of {} healthy; {selected}", rows.len());
        Check::new("regions", healthy > 0, text)
    }

    fn check_quota(&self) -> Check {
        let snapshots = self.sources.quotas().map(quota::Quota::snapshot);
        // The one that orders the longest pause speaks for all, and one that is lost before it.
        let worst = snapshots.max_by_key(|snapshot| (snapshot.unavailable_for, snapshot.paused));
        let Some(snapshot) = worst else {
            return Check::new("quota", true, "");
        };
        let text = match snapshot.paused {
            _ if snapshot.unavailable_for.is_some() => "the store is lost, so no call may leave".to_owned(),
            Some(pause) => format!("the upstream ordered a pause of another {} s", pause.as_secs()),
            None => snapshot.left(),
        };
        let ok = snapshot.paused.is_none() && snapshot.unavailable_for.is_none();
        Check::new("quota", ok, text)
    }
}

fn check(standing: &Standing) -> Check {
    let problem = &standing.problem;
    let lasted_s = standing.since.elapsed().as_secs();
    let text = format!("for {lasted_s} s: {}; {}", problem.message, problem.advice);
    Check::new(problem.code.as_str(), false, text)
}
