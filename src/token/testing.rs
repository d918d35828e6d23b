//! A sign-in service for tests, which answers by a script and counts its requests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tower::util::BoxCloneSyncService;

use super::{App, Config, Credential, Scope, SecretSource};
use crate::net::Exchange;
use crate::secret::Secret;

/// The value that tests look for in places where it must not be.
pub(super) const CLIENT_SECRET: &str = "very~secret.value+with/odd=chars";

/// An answer, and how long it takes.
pub(super) struct Reply {
    delay: Duration,
    result: Result<Response<Bytes>, &'static str>,
}

impl Reply {
    /// The body of a rejection.
    pub(super) const REFUSAL: &str = r#"{"error":"invalid_client","error_description":"AADSTS7000222: The secret has expired.","error_codes":[7000222]}"#;

    pub(super) fn new(status: u16, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        let mut answer = Response::builder().status(status);
        for (name, value) in fields {
            answer = answer.header(*name, *value);
        }
        Self {
            delay: Duration::from_millis(20),
            result: Ok(answer.body(body.into()).unwrap()),
        }
    }

    pub(super) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(
            status,
            &[("content-type", "application/json; charset=utf-8")],
            body.to_string(),
        )
    }

    /// A token for an hour.
    pub(super) fn token(name: &str) -> Self {
        Self::token_for(name, 3600)
    }

    pub(super) fn token_for(name: &str, seconds: u64) -> Self {
        let body = serde_json::json!({"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds,
            "access_token": name});
        Self::json(200, &body)
    }

    /// Entra's rejection with `code`.
    pub(super) fn refusal(code: u32) -> Self {
        let body = serde_json::json!({"error": "invalid_client", "error_codes": [code],
            "error_description": format!("AADSTS{code}: Something is wrong.\r\nTrace ID: t"), "trace_id": "trace-1"});
        Self::json(401, &body)
    }

    /// No connection.
    pub(super) fn outage() -> Self {
        Self {
            delay: Duration::from_millis(20),
            result: Err("connection refused"),
        }
    }

    /// No answer ever.
    pub(super) fn silence() -> Self {
        Self::outage().after(Duration::from_secs(100_000_000))
    }

    pub(super) fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Script = Box<dyn FnMut(usize, &Request<Bytes>) -> Reply + Send>;

/// Clones are the same service.
#[derive(Clone)]
pub(super) struct Service {
    calls: Arc<Mutex<Vec<Request<Bytes>>>>,
    script: Arc<Mutex<Script>>,
}

impl Service {
    /// `script` gets the number of the request, from 1, and the request.
    pub(super) fn new(script: impl FnMut(usize, &Request<Bytes>) -> Reply + Send + 'static) -> Self {
        Self {
            calls: Arc::default(),
            script: Arc::new(Mutex::new(Box::new(script))),
        }
    }

    /// Replaces the script.
    pub(super) fn now(&self, script: impl FnMut(usize, &Request<Bytes>) -> Reply + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    pub(super) fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    pub(super) fn last(&self) -> Request<Bytes> {
        self.calls.lock().unwrap().last().unwrap().clone()
    }

    pub(super) fn exchange(&self) -> Exchange {
        let this = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
            let number = {
                let mut calls = this.calls.lock().unwrap();
                calls.push(request.clone());
                calls.len()
            };
            let reply = (this.script.lock().unwrap())(number, &request);
            async move {
                tokio::time::sleep(reply.delay).await;
                reply.result.map_err(Into::into)
            }
        }))
    }
}

/// An exchange that must not be used.
pub(super) fn unused() -> Exchange {
    Service::new(|_, request| panic!("wrong exchange for {}", request.uri())).exchange()
}

/// The form fields of a request's body.
pub(super) fn form(request: &Request<Bytes>) -> std::collections::HashMap<String, String> {
    url::form_urlencoded::parse(request.body()).into_owned().collect()
}

pub(super) fn app() -> App {
    let authority = url::Url::parse("https://login.example/").unwrap();
    App::new(&authority, "contoso.example", "app-1")
}

pub(super) fn config(credential: Credential) -> Config {
    Config {
        credential,
        scope: Scope::new("https://api.example/.default"),
    }
}

pub(super) fn secret_config() -> Config {
    config(Credential::ClientSecret {
        app: app(),
        secret: SecretSource::Value(Secret::new(CLIENT_SECRET.into())),
    })
}
