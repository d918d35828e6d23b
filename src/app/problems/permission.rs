//! The problem of a token that lacks the permission, and what to do about it.

use super::{Code, Problem};
use crate::token::{Kind, Roles, Snapshot};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_managed_identity_is_not_told_to_restart() {
        let snapshot = |kind, roles| Snapshot {
            kind,
            expires_in: Some(Duration::from_mins(60)),
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
}
