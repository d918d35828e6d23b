//! The requests that are sent, and the results of the responses.

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
        app: app.unwrap(),
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
    let host = IdentityHost::AppService {
        endpoint: Url::parse("http://127.0.0.1:41741/msi/token?x=1").unwrap(),
        header: Secret::new("header-secret".into()),
    };
    let mut sign_in = SignIn::new(managed(host, None), testing::unused(), service.exchange(), wall());
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
        let service = Service::new(move |_, _| Reply::json(status, &json!({"error": "invalid_request"})));
        let error = SignIn::new(imds(None), testing::unused(), service.exchange(), wall())
            .ask()
            .await
            .unwrap_err();
        assert_eq!(
            matches!(error, Error::Unavailable { .. }),
            passes,
            "{status}: {error:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn rejections_contain_entras_code_and_advice() {
    let error = asked_with_secret(|| Reply::refusal(7_000_222)).await.unwrap_err();
    assert_eq!(error.code(), "AADSTS7000222");
    assert!(
        error
            .to_string()
            .contains("AADSTS7000222: the client secret has expired"),
        "{error}"
    );
    assert_eq!(error.message(), "AADSTS7000222: Something is wrong. (trace id trace-1)");
    assert!(matches!(error, Error::Refused { .. }));

    // Other servers have descriptions only; proxies have neither.
    let error = asked_with_secret(|| Reply::json(400, &json!({"error": "invalid_scope"})))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "invalid_scope");
    let error = asked_with_secret(|| Reply::new(403, &[], "<html>no</html>"))
        .await
        .unwrap_err();
    assert_eq!(error.code(), "HTTP 403");
    let forged = asked_with_secret(|| Reply::json(400, &json!({"error": "a\nb"})))
        .await
        .unwrap_err();
    assert_eq!(forged.code(), "HTTP 400");
}

#[tokio::test(start_paused = true)]
async fn temporary_failures_are_unavailable_in_every_form() {
    let throttled = || {
        Reply::new(
            429,
            &[("retry-after", "60"), ("content-type", "text/plain")],
            "Too Many Requests",
        )
    };
    let error = asked_with_secret(throttled).await.unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Unavailable {
                reason: Reason::Throttled,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(error.retry_after(), Some(Duration::from_mins(1)));

    let dated = || Reply::new(503, &[("retry-after", "Thu, 05 Nov 2026 12:00:30 GMT")], "");
    let error = asked_with_secret(dated).await.unwrap_err();
    assert_eq!(error.code(), "HTTP 503");
    // The response took 20 ms.
    let wait = error.retry_after().unwrap();
    assert!((29_900..=30_000).contains(&wait.as_millis()), "{wait:?}");

    let transient = asked_with_secret(|| Reply::refusal(90_033)).await.unwrap_err();
    assert!(matches!(transient, Error::Unavailable { .. }));
    let busy = asked_with_secret(|| Reply::json(400, &json!({"error": "temporarily_unavailable"}))).await;
    assert!(matches!(busy, Err(Error::Unavailable { .. })));
    let lost = asked_with_secret(Reply::outage).await.unwrap_err();
    assert_eq!(
        (lost.code().as_str(), lost.message().as_str()),
        ("Unreachable", "connection refused")
    );
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_never_ends_is_given_up_after_ten_seconds() {
    let before = tokio::time::Instant::now();
    let error = asked_with_secret(Reply::silence).await.unwrap_err();
    assert_eq!(error.code(), "TimedOut");
    assert_eq!(before.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_no_token_are_no_token() {
    let token = |body: serde_json::Value| move || Reply::json(200, &body);
    for body in [
        json!({"token_type": "Bearer", "expires_in": 0, "access_token": "t"}),
        json!({"token_type": "Bearer", "expires_in": 3600, "access_token": ""}),
        json!({"token_type": "Bearer", "expires_in": 3600, "access_token": "a\r\nb"}),
        json!({"expires_in": 3600}),
        json!([]),
    ] {
        let error = asked_with_secret(token(body.clone())).await.unwrap_err();
        assert_eq!(error.code(), "UnreadableAnswer", "{body}");
    }
    let page = asked_with_secret(|| Reply::new(200, &[("content-type", "text/html")], "<html>log in</html>")).await;
    assert_eq!(page.unwrap_err().code(), "UnreadableAnswer");
    let redirect = asked_with_secret(|| Reply::new(302, &[("location", "https://evil.example")], "")).await;
    assert_eq!(redirect.unwrap_err().code(), "UnreadableAnswer");
}

#[tokio::test(start_paused = true)]
async fn a_usable_token_is_used_whatever_stands_around_it() {
    for (body, life) in [
        (
            r#"{"token_type":"Bearer","expires_in":"3599","access_token":"t"}"#,
            3599,
        ),
        (
            r#"{"token_type":"Bearer","expires_in":3599.0,"access_token":"t"}"#,
            3599,
        ),
        (
            r#"{"token_type":"Bearer","expires_in":3599,"refresh_in":"1800","access_token":"t"}"#,
            3599,
        ),
        (
            "\u{feff}{\"token_type\":\"Bearer\",\"expires_in\":3599,\"access_token\":\"t\"}",
            3599,
        ),
        (r#"{"expires_in":3599,"access_token":"t"}"#, 3599),
        (
            r#"{"expires_in":3599,"expires_on":"9/14/2026 1:2:3 PM +00:00","access_token":"t"}"#,
            3599,
        ),
        // The life is unknown, so the token is renewed soon.
        (r#"{"expires_in":"soon","access_token":"t"}"#, 300),
    ] {
        for content_type in ["text/html", "application/json"] {
            let reply = move || Reply::new(200, &[("content-type", content_type)], body);
            let issued = asked_with_secret(reply).await.unwrap();
            assert_eq!(issued.secret.expose(), "t");
            assert_eq!(issued.life, Duration::from_secs(life), "{body}");
            let service = Service::new(move |_, _| reply());
            let mut machine = SignIn::new(imds(None), testing::unused(), service.exchange(), wall());
            assert_eq!(machine.ask().await.unwrap().life, Duration::from_secs(life), "{body}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_date_of_expiry_is_read_by_the_servers_clock() {
    let body = json!({"access_token": "t", "expires_on": "2026-11-05T12:10:00Z"}).to_string();
    let fields = [("date", "Thu, 05 Nov 2026 12:05:00 GMT")];
    let issued = asked_with_secret(move || Reply::new(200, &fields, body.clone()))
        .await
        .unwrap();
    assert_eq!(issued.life, Duration::from_mins(5));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_the_form_of_a_success_is_a_refusal() {
    let error = asked_with_secret(|| Reply::new(200, &[], Reply::REFUSAL))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    assert_eq!(error.code(), "AADSTS7000222");
    let error = asked_with_secret(|| Reply::json(200, &json!({"error": "temporarily_unavailable"}))).await;
    assert!(matches!(error, Err(Error::Unavailable { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn responses_without_a_token_are_explained() {
    for (status, content_type, body, expected) in [
        (
            200,
            "text/html; charset=utf-8",
            "<html>log in</html>",
            "HTTP 200, text/html: its body is a web page",
        ),
        (
            200,
            "application/json",
            "",
            "HTTP 200, application/json: its body is empty",
        ),
        (200, "text/plain", "hello", "HTTP 200, text/plain: its body is not JSON"),
        (
            200,
            "application/json",
            "[]",
            "HTTP 200, application/json: its body is JSON, but not an object",
        ),
        (
            200,
            "application/json",
            "{}",
            "HTTP 200, application/json: its JSON has no access_token",
        ),
        (302, "text/html", "", "HTTP 302, text/html: it redirects"),
    ] {
        let error = asked_with_secret(move || Reply::new(status, &[("content-type", content_type)], body)).await;
        let message = error.unwrap_err().message();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_repeats_the_secret_is_not_shown() {
    let echo = || {
        let text = format!("AADSTS1: you sent {CLIENT_SECRET}");
        Reply::json(
            400,
            &json!({"error": CLIENT_SECRET, "error_codes": [1], "error_description": text, "trace_id": CLIENT_SECRET}),
        )
    };
    let error = asked_with_secret(echo).await.unwrap_err();
    let shown = format!("{error} {error:?} {} {}", error.message(), error.code());
    assert!(!shown.contains(CLIENT_SECRET), "{shown}");
    let word_only = || Reply::json(400, &json!({"error": CLIENT_SECRET}));
    let error = asked_with_secret(word_only).await.unwrap_err();
    assert!(!format!("{error:?} {error}").contains(CLIENT_SECRET), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_clock_is_noticed_and_worked_around() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("both.pem");
    std::fs::write(&pem, certificate_and_key()).unwrap();
    let credential = Credential::Certificate {
        app: testing::app(),
        files: CertificateFiles {
            certificate: pem,
            private_key: None,
        },
    };
    // Sign-in's clock is an hour ahead.
    let service = Service::new(|_, request| {
        let issued_at = claims(&form(request)["client_assertion"])["iat"].as_i64().unwrap();
        let theirs = NOW.parse::<Timestamp>().unwrap().as_second() + 3600;
        if (theirs - issued_at).abs() < 300 {
            return Reply::token("t");
        }
        let body = json!({"error": "invalid_client", "error_codes": [700_024]});
        Reply::new(401, &[("date", "Thu, 05 Nov 2026 13:00:00 GMT")], body.to_string())
    });
    let mut sign_in = sign_in(testing::config(credential), &service);
    assert_eq!(sign_in.ask().await.unwrap().secret.expose(), "t");
    assert_eq!(service.count(), 2);
    let skew = sign_in.warnings().into_iter().find_map(|warning| match warning {
        Warning::ClockSkew { seconds } => Some(seconds),
        _ => None,
    });
    assert!((3595..=3600).contains(&skew.unwrap()), "{skew:?}");
    // The difference is known, so the next sign-in needs only one request.
    sign_in.ask().await.unwrap();
    assert_eq!(service.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_assertion_is_not_repeated_when_the_clocks_agree() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("both.pem");
    std::fs::write(&pem, certificate_and_key()).unwrap();
    let files = CertificateFiles {
        certificate: pem,
        private_key: None,
    };
    let app: App = testing::app();
    let service = Service::new(|_, _| {
        let body = json!({"error": "invalid_client", "error_codes": [700_027]});
        Reply::new(401, &[("date", "Thu, 05 Nov 2026 12:00:20 GMT")], body.to_string())
    });
    let error = sign_in(testing::config(Credential::Certificate { app, files }), &service)
        .ask()
        .await
        .unwrap_err();
    assert_eq!(error.code(), "AADSTS700027");
    assert_eq!(service.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_near_its_end_is_announced() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("both.pem");
    std::fs::write(&pem, certificate_and_key()).unwrap();
    let files = CertificateFiles {
        certificate: pem,
        private_key: None,
    };
    let service = Service::new(|_, _| Reply::token("t"));
    let config = testing::config(Credential::Certificate {
        app: testing::app(),
        files,
    });
    let end: Timestamp = "2027-01-15T00:00:00Z".parse().unwrap();
    for (days_before, announced) in [(40, false), (20, true), (-1, true)] {
        let wall = Wall::anchored(end - SignedDuration::from_hours(24 * days_before));
        let mut sign_in = SignIn::new(config.clone(), service.exchange(), testing::unused(), wall);
        sign_in.ask().await.unwrap();
        let warned = sign_in.warnings().contains(&Warning::CertificateExpiry { at: end });
        assert_eq!(warned, announced, "{days_before}");
    }
}

fn certificate_and_key() -> String {
    let key = include_str!("../credential/testdata/rsa-1.pem");
    let pair = rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(key, &rcgen::PKCS_RSA_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["gateway.example".into()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2027, 1, 15);
    format!("{}{key}", params.self_signed(&pair).unwrap().pem())
}

fn claims(assertion: &str) -> serde_json::Value {
    use base64::Engine as _;
    let payload = assertion.split('.').nth(1).unwrap();
    serde_json::from_slice(
        &base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(payload)
            .unwrap(),
    )
    .unwrap()
}
