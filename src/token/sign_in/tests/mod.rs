//! The requests that are sent, and the results of the responses.

mod answers;
mod certificate;
mod grammar;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use url::Url;

use super::{Issued, SignIn};
use crate::clock::Wall;
use crate::secret::Secret;
use crate::token::testing::{self, CLIENT_SECRET, Reply, Service, form};
use crate::token::{App, CertificateFiles, Config, Credential, Error, Identity, IdentityHost, Reason, Warning};

const NOW: &str = "2026-11-05T12:00:00Z";

fn wall() -> Wall {
    Wall::anchored(NOW.parse().unwrap())
}

fn sign_in(config: Config, service: &Service) -> SignIn {
    SignIn::new(config, service.exchange(), testing::unused(), wall())
}

async fn asked_with_secret(reply: impl Fn() -> Reply + Send + 'static) -> Result<Issued, Error> {
    let service = Service::new(move |_, _| reply());
    sign_in(testing::secret_config(), &service).ask().await
}

#[tokio::test(start_paused = true)]
async fn a_client_secret_goes_into_the_body_and_nowhere_else() {
    let service = Service::new(|_, _| Reply::token("t1"));
    let issued = sign_in(testing::secret_config(), &service).ask().await.unwrap();
    assert_eq!(issued.secret.expose(), "t1");
    assert_eq!(issued.life, Duration::from_hours(1));
    assert_eq!(issued.refresh_in, None);

    let request = service.last();
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "https://login.example/contoso.example/oauth2/v2.0/token");
    assert_eq!(request.headers()["content-type"], "application/x-www-form-urlencoded");
    assert!(!request.headers().contains_key("authorization"));
    let form = form(&request);
    assert_eq!(form["grant_type"], "client_credentials");
    assert_eq!(form["client_id"], "app-1");
    assert_eq!(form["client_secret"], CLIENT_SECRET);
    assert_eq!(form["scope"], "https://api.example/.default");
    assert_eq!(form.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn refresh_in_is_read_and_kept_within_the_life() {
    let with = |refresh_in: u64| {
        move || {
            Reply::json(
                200,
                &json!({"token_type": "bearer", "expires_in": 3600, "refresh_in": refresh_in, "access_token": "t"}),
            )
        }
    };
    let refresh_in = async |value| asked_with_secret(with(value)).await.unwrap().refresh_in;
    assert_eq!(refresh_in(1800).await, Some(Duration::from_mins(30)));
    assert_eq!(refresh_in(0).await, None);
    assert_eq!(refresh_in(3600).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_federated_token_is_read_for_every_request_and_sent_unchanged() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "projected.1.x\n").unwrap();
    let service = Service::new(|_, _| Reply::token("t"));
    let app = testing::app().through_token_proxy(&Url::parse("https://proxy.example/p").unwrap());
    let credential = Credential::WorkloadIdentity {
        app,
        token_file: file.path().to_owned(),
    };
    let mut sign_in = sign_in(testing::config(credential), &service);
    sign_in.ask().await.unwrap();
    let request = service.last();
    assert_eq!(
        request.uri(),
        "https://proxy.example/p/contoso.example/oauth2/v2.0/token"
    );
    assert_eq!(
        form(&request)["client_assertion_type"],
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    );
    assert_eq!(form(&request)["client_assertion"], "projected.1.x");
    assert!(!form(&request).contains_key("client_secret"));

    std::fs::write(file.path(), "projected.2.x").unwrap();
    sign_in.ask().await.unwrap();
    assert_eq!(form(&service.last())["client_assertion"], "projected.2.x");
}

fn managed(host: IdentityHost, client_id: Option<&str>) -> Config {
    testing::config(Credential::ManagedIdentity(Identity {
        host,
        client_id: client_id.map(str::to_owned),
    }))
}

fn imds(client_id: Option<&str>) -> Config {
    let address = Url::parse(IdentityHost::IMDS).unwrap();
    managed(IdentityHost::Imds { address }, client_id)
}

fn app_service(endpoint: &str) -> Config {
    let host = IdentityHost::AppService {
        endpoint: Url::parse(endpoint).unwrap(),
        header: Secret::new("header-secret".into()),
    };
    managed(host, None)
}

#[tokio::test(start_paused = true)]
async fn the_metadata_service_is_asked_directly_and_writes_numbers_as_strings() {
    let service = Service::new(|_, _| {
        let body = json!({"access_token": "m", "expires_in": "86399", "expires_on": "1", "refresh_in": "43200",
            "resource": "https://api.example", "token_type": "Bearer"});
        Reply::json(200, &body)
    });
    let mut sign_in = SignIn::new(imds(Some("id-1")), testing::unused(), service.exchange(), wall());
    let issued = sign_in.ask().await.unwrap();
    assert_eq!(issued.life, Duration::from_secs(86_399));
    assert_eq!(issued.refresh_in, Some(Duration::from_hours(12)));
    let request = service.last();
    assert_eq!(request.method(), "GET");
    assert_eq!(request.headers()["metadata"], "true");
    assert_eq!(
        request.uri(),
        "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01\
         &resource=https%3A%2F%2Fapi.example&client_id=id-1"
    );
}

#[tokio::test(start_paused = true)]
async fn app_service_has_its_own_address_and_header_and_may_tell_the_date_of_expiry_only() {
    let on = NOW.parse::<Timestamp>().unwrap().as_second() + 600;
    let service = Service::new(move |_, _| Reply::json(200, &json!({"access_token": "m", "expires_on": on})));
    let config = app_service("http://127.0.0.1:41741/msi/token?x=1");
    let mut sign_in = SignIn::new(config, testing::unused(), service.exchange(), wall());
    let issued = sign_in.ask().await.unwrap();
    assert_eq!(issued.life, Duration::from_mins(10));
    let request = service.last();
    assert_eq!(request.headers()["x-identity-header"], "header-secret");
    assert!(request.headers()["x-identity-header"].is_sensitive());
    assert_eq!(
        request.uri(),
        "http://127.0.0.1:41741/msi/token?x=1&api-version=2019-08-01&resource=https%3A%2F%2Fapi.example"
    );
}

/// Why there is no token of a managed identity, on a machine and in App Service.
async fn errors_of_hosts(reply: impl Fn() -> Reply + Clone + Send + 'static) -> [Error; 2] {
    let mut errors = Vec::new();
    for config in [imds(None), app_service("http://127.0.0.1:41741/msi/token")] {
        let reply = reply.clone();
        let service = Service::new(move |_, _| reply());
        let mut sign_in = SignIn::new(config, testing::unused(), service.exchange(), wall());
        errors.push(sign_in.ask().await.unwrap_err());
    }
    errors.try_into().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_metadata_service_may_be_starting_but_says_no_for_good_too() {
    for (status, passes) in [
        (404, true),
        (410, true),
        (429, true),
        (500, true),
        (400, false),
        (403, false),
    ] {
        let refusal = move || Reply::json(status, &json!({"error": "invalid_request"}));
        for error in errors_of_hosts(refusal).await {
            let is_unavailable = matches!(error, Error::Unavailable { .. });
            assert_eq!(is_unavailable, passes, "{status}: {error:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_managed_identity_is_not_told_of_authority_proxy_and_names() {
    let replies = [
        Reply::outage,
        Reply::silence,
        || Reply::new(404, &[], ""),
        || Reply::new(403, &[], "no"),
    ];
    for reply in replies {
        for error in errors_of_hosts(reply).await {
            let shown = format!("{} {error}", error.advice());
            for foreign in ["authority", "proxy", "tenant_id", "name resolution"] {
                assert!(!shown.contains(foreign), "{shown}");
            }
            assert!(shown.contains("identity"), "{shown}");
        }
    }
    let [machine, _] = errors_of_hosts(Reply::outage).await;
    assert!(machine.advice().contains("NetworkPolicy"), "{}", machine.advice());
    assert_eq!(machine.code(), "Unreachable");
    let entra = asked_with_secret(Reply::outage).await.unwrap_err();
    assert!(entra.advice().contains("name resolution"), "{}", entra.advice());
}
