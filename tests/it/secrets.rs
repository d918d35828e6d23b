//! No secret and no token leaves the program, however much it is asked to say.

use http::StatusCode;

use defender_gateway::testing::sim::{self, ExposeSecret as _, Fault, Often, Plan, SignInFault};

use crate::support::{Caller, Controls, Setup, id};

/// What nobody may see: the secret, each token, and the parts of a token that make it one.
pub(crate) fn forbidden(simulator: &sim::Simulator) -> Vec<String> {
    // As it is, and as it stands in a form.
    let encoded = url::form_urlencoded::byte_serialize(sim::CLIENT_SECRET.as_bytes()).collect();
    let mut texts = vec![sim::CLIENT_SECRET.to_owned(), encoded];
    for token in tokens(simulator) {
        // The first part is the same for all tokens of the world.
        texts.extend(token.as_str().split('.').skip(1).map(ToOwned::to_owned));
    }
    texts
}

fn tokens(simulator: &sim::Simulator) -> Vec<String> {
    simulator
        .token_requests()
        .into_iter()
        .filter_map(|request| Some(request.token?.expose_secret().to_owned()))
        .collect()
}

/// Fails when `text` holds what nobody may see.
pub(crate) fn assert_clean(what: &str, text: &str, forbidden: &[String]) {
    for secret in forbidden {
        assert!(
            !text.contains(secret.as_str()),
            "{what} holds {secret}:\n{}",
            line_of(text, secret)
        );
    }
}

fn line_of<'a>(text: &'a str, part: &str) -> &'a str {
    text.lines().find(|line| line.contains(part)).unwrap_or_default()
}

#[tokio::test]
async fn neither_logs_at_trace_nor_answers_hold_a_secret_or_a_token() {
    for format in ["json", "text"] {
        let spawned = Setup::new()
            .set("telemetry.log", "trace")
            .set("telemetry.format", format)
            .simulator(|config| config.sign_in.faults = Plan::of(SignInFault::Cut, Often::Times(1)))
            .spawn()
            .await;
        let (caller, admin) = (spawned.caller(), spawned.admin());
        let second = Caller::http2(caller.base());
        assert_eq!(caller.ask(&[id(1)]).await.status, StatusCode::OK);
        assert_eq!(second.ask(&[id(2)]).await.status, StatusCode::OK);
        // Renewal, failure and refusal each have their own lines.
        spawned.simulator.revoke_tokens().await;
        let private = [("authorization", "Bearer the-callers-own-token-which-is-long")];
        assert_eq!(caller.ask_with(&[id(3)], &private).await.status, StatusCode::OK);
        let trouble = [Fault::Cut, Fault::Rubbish, Fault::Redirect, Fault::NoLicence];
        for (n, fault) in trouble.into_iter().enumerate() {
            spawned
                .simulator
                .set_faults("eu", &Plan::of(fault, Often::Times(2)))
                .unwrap();
            caller.ask(&[id(10 + n)]).await;
        }
        let mut shown = String::new();
        for target in ["/status", "/metrics", "/readyz?verbose", "/"] {
            shown.push_str(admin.fetch(target).await.text());
        }
        let tokens = tokens(&spawned.simulator);
        assert!(tokens.len() >= 2, "{} tokens", tokens.len());
        let mut forbidden = forbidden(&spawned.simulator);
        forbidden.push("the-callers-own-token".into());
        drop((caller, second, admin));
        let output = spawned.finish().await;
        assert!(
            output.contains("TRACE") && output.len() > 10_000,
            "trace says more than {} bytes",
            output.len()
        );
        assert_clean("the log", &output, &forbidden);
        assert_clean("an admin answer", &shown, &forbidden);
    }
}
