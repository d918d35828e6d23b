//! The problems that Defender's answers show, and the one that the token shows before.

use super::{Code, Problem, Severity};
use crate::token::{Kind, Roles, Snapshot};
use crate::upstream::RecentSnapshot;

/// A failure is told of when it is every tenth call or more, and more than one, or all there are;
/// from then on, as long as there is any. It is critical when it is every other call or more.
const SHARE: usize = 10;

/// Whether the token lacks the permission.
pub(super) fn roles(snapshot: &Snapshot) -> Option<Problem> {
    (snapshot.expires_in.is_some() && snapshot.roles == Roles::Missing).then(|| {
        Problem::new(
            Code::RolesMissing,
            "the token lacks the permission Machine.Read.All, so Defender answers 403",
            advice(snapshot.kind),
        )
    })
}

fn advice(kind: Kind) -> &'static str {
    match kind {
        Kind::ManagedIdentity => {
            "give the managed identity the application permission Machine.Read.All; Azure keeps its tokens for up to a day, so a new \
             permission can take that long to show, and a restart does not help"
        }
        Kind::ClientSecret | Kind::Certificate | Kind::WorkloadIdentity => {
            "give the app the application permission Machine.Read.All and admin consent; the gateway asks for another token by itself, \
             every few minutes"
        }
    }
}

/// What to do when Defender answers 403 to a token with these roles.
pub(crate) fn advice_on_forbidden(roles: Roles) -> &'static str {
    match roles {
        Roles::Sufficient => {
            "the token holds the permission, so the reason is another: a feature is off in the tenant or not licensed, or \
             credentials.scope names another audience"
        }
        Roles::Missing | Roles::Unknown => "give the app the application permission Machine.Read.All and admin consent",
    }
}

/// What the latest calls were answered with, if it is no answer, where some is known to have been.
pub(super) fn upstream(recent: &RecentSnapshot, roles: Roles, is_known: impl Fn(Code) -> bool) -> Vec<Problem> {
    let calls = recent.calls;
    let begins = |count: usize| count * SHARE >= calls && (count > 1 || count == calls);
    let make = |code, count: usize, what: &str, advice| {
        (count > 0 && (begins(count) || is_known(code))).then(|| {
            let message = format!("{count} of the last {calls} calls were {what}");
            let severity = if count * 2 >= calls {
                Severity::Critical
            } else {
                Severity::Warning
            };
            Problem::new(code, message, advice)
                .counting(count as u64)
                .at_most(severity)
        })
    };
    let code = recent.forbidden_code.as_ref();
    let code = code.map_or_else(String::new, |code| format!(", the latest with {code}"));
    let failure = recent.latest_failure.as_deref().unwrap_or("no answer");
    [
        make(
            Code::UpstreamUnauthorized,
            recent.unauthorized,
            "answered 401 by Defender",
            "the token is not accepted, or the tenant has no licence for vulnerability management: run `defender-gateway probe`",
        ),
        make(
            Code::UpstreamForbidden,
            recent.forbidden,
            &format!("answered 403 by Defender{code}"),
            advice_on_forbidden(roles),
        ),
        make(
            Code::UpstreamFailing,
            recent.failed,
            &format!("not answered by Defender, the latest with {failure}"),
            "see Microsoft's service health; if Defender is well, look at the network and at the proxies between here and it",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_managed_identity_is_not_told_to_restart() {
        let snapshot = |kind, roles| Snapshot {
            kind,
            expires_in: Some(Duration::from_hours(1)),
            refreshing: false,
            last_error: None,
            roles,
            warnings: Vec::new(),
        };
        for kind in Kind::ALL {
            let problem = roles(&snapshot(kind, Roles::Missing)).unwrap();
            let is_managed = kind == Kind::ManagedIdentity;
            assert_eq!(problem.advice.contains("up to a day"), is_managed, "{kind:?}");
            assert_eq!(problem.advice.contains("by itself"), !is_managed, "{kind:?}");
            assert!(roles(&snapshot(kind, Roles::Sufficient)).is_none());
        }
    }

    #[test]
    fn one_failure_among_many_calls_is_no_problem_and_the_only_call_is() {
        let codes_after = |known: Option<Code>, calls, forbidden, failed| {
            let recent = RecentSnapshot {
                calls,
                forbidden,
                failed,
                ..RecentSnapshot::default()
            };
            let found = upstream(&recent, Roles::Sufficient, |code| known == Some(code));
            for problem in &found {
                let is_critical = problem.count * 2 >= calls as u64;
                assert_eq!(problem.severity == Severity::Critical, is_critical, "{problem:?}");
            }
            found.into_iter().map(|problem| problem.code).collect::<Vec<_>>()
        };
        let codes = |calls, forbidden, failed| codes_after(None, calls, forbidden, failed);
        assert_eq!(codes(0, 0, 0), []);
        assert_eq!(codes(20, 1, 1), []);
        assert_eq!(codes(5, 1, 0), []);
        assert_eq!(codes(1, 1, 0), [Code::UpstreamForbidden]);
        assert_eq!(codes(20, 2, 6), [Code::UpstreamForbidden, Code::UpstreamFailing]);
        // What fails every tenth time does not begin and end all the while.
        let failing = Some(Code::UpstreamFailing);
        assert_eq!(codes_after(failing, 20, 1, 1), [Code::UpstreamFailing]);
        assert_eq!(codes_after(failing, 20, 0, 0), []);
    }

    #[test]
    fn a_403_to_a_token_with_the_permission_has_another_reason() {
        let recent = RecentSnapshot {
            calls: 1,
            forbidden: 1,
            forbidden_code: Some("DisabledFeature".into()),
            ..RecentSnapshot::default()
        };
        let of = |roles| upstream(&recent, roles, |_| false).remove(0);
        assert!(
            of(Roles::Sufficient)
                .message
                .ends_with("the latest with DisabledFeature")
        );
        assert!(of(Roles::Sufficient).advice.contains("credentials.scope"));
        assert!(of(Roles::Missing).advice.contains("admin consent"));
    }
}
