//! Signing in with a certificate.

use super::*;

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
async fn a_clock_that_was_put_right_is_noticed_although_assertions_are_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let pem = folder.path().join("both.pem");
    std::fs::write(&pem, certificate_and_key()).unwrap();
    let files = CertificateFiles {
        certificate: pem,
        private_key: None,
    };
    let credential = Credential::Certificate {
        app: testing::app(),
        files,
    };
    // This machine's clock is six minutes ahead, and an assertion may begin five minutes from now.
    let theirs = NOW.parse::<Timestamp>().unwrap() - SignedDuration::from_mins(6);
    let service = Service::new(move |_, request| {
        let claims = claims(&form(request)["client_assertion"]);
        let valid = claims["nbf"].as_i64().unwrap() - 300..claims["exp"].as_i64().unwrap();
        let (status, body) = if valid.contains(&theirs.as_second()) {
            (
                200,
                json!({"token_type": "Bearer", "expires_in": 3600, "access_token": "t"}),
            )
        } else {
            (401, json!({"error": "invalid_client", "error_codes": [700_024]}))
        };
        Reply::new(status, &[("date", "Thu, 05 Nov 2026 11:54:00 GMT")], body.to_string())
    });
    let mut sign_in = sign_in(testing::config(credential), &service);
    for requests in [2, 3] {
        sign_in.ask().await.unwrap();
        assert_eq!(service.count(), requests);
        assert!(sign_in.warnings().contains(&Warning::ClockSkew { seconds: -360 }));
    }
    sign_in.wall = Wall::anchored(theirs);
    sign_in.ask().await.unwrap();
    assert_eq!(service.count(), 4);
    let is_skew = |warning: &Warning| matches!(warning, Warning::ClockSkew { .. });
    assert!(!sign_in.warnings().iter().any(is_skew));
    sign_in.ask().await.unwrap();
    let claims = claims(&form(&service.last())["client_assertion"]);
    let issued_at = claims["iat"].as_i64().unwrap();
    assert!((issued_at - theirs.as_second()).abs() < 60, "{claims}");
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
    let key = include_str!("../../credential/testdata/rsa-1.pem");
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
