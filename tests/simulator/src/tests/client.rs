//! A client that sends valid and invalid requests.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::controls::wait;
use crate::{CLIENT_ID, CLIENT_SECRET, CallRecord, SCOPE, Simulator, TENANT_ID};

pub(super) const PATH: &str = "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId";
pub(super) const ID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

type Failure = Box<dyn Error + Send + Sync>;

/// A response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }

    /// `error.code` of Defender, `error` of sign-in.
    pub(super) fn code(&self) -> String {
        let json = self.json();
        let code = json["error"]["code"].as_str().or(json["error"].as_str());
        code.unwrap_or_else(|| panic!("no error: {json}")).into()
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The status and the error number of sign-in.
    pub(super) fn aadsts(&self) -> (u16, u64) {
        let json = self.json();
        let number = json["error_codes"][0].as_u64().unwrap();
        let text = json["error_description"].as_str().unwrap();
        assert!(text.starts_with(&format!("AADSTS{number}: ")), "{text}");
        for part in ["Trace ID: ", "Correlation ID: ", "Timestamp: "] {
            assert!(text.contains(part), "{text}");
        }
        for member in ["error", "timestamp", "trace_id", "correlation_id", "error_uri"] {
            assert!(json[member].is_string(), "{member} in {json}");
        }
        (self.status.as_u16(), number)
    }
}

pub(super) struct Client {
    pool: Pool<HttpConnector, Full<Bytes>>,
}

impl Client {
    pub(super) fn http1() -> Self {
        Self {
            pool: Pool::builder(TokioExecutor::new())
                .retry_canceled_requests(false)
                .build_http(),
        }
    }

    pub(super) fn http2() -> Self {
        let mut builder = Pool::builder(TokioExecutor::new());
        Self {
            pool: builder.http2_only(true).retry_canceled_requests(false).build_http(),
        }
    }

    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Answer, Failure> {
        let response = self.pool.request(request.map(Full::new)).await?;
        let (head, body) = response.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    /// A token request with these fields instead of the valid ones; an empty value leaves the field
    /// out.
    pub(super) async fn sign_in(&self, sim: &Simulator, fields: &[(&str, &str)]) -> Answer {
        let good = [
            ("client_id", CLIENT_ID),
            ("scope", SCOPE),
            ("client_secret", CLIENT_SECRET),
            ("grant_type", "client_credentials"),
        ];
        let overridden = |name: &str| fields.iter().any(|(other, _)| *other == name);
        let kept = good.iter().filter(|(name, _)| !overridden(name));
        let sent = kept.chain(fields).filter(|(_, value)| !value.is_empty());
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(sent)
            .finish();
        let request = token_request(sim, TENANT_ID).body(form.into()).unwrap();
        self.send(request).await.unwrap()
    }

    pub(super) async fn token(&self, sim: &Simulator) -> String {
        let answer = self.sign_in(sim, &[]).await;
        answer.json()["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer:?}"))
            .into()
    }

    /// A valid call with a token.
    pub(super) async fn ask(&self, sim: &Simulator, region: &str, token: &str) -> Result<Answer, Failure> {
        self.send(call(sim, region, token).body(body(&[ID])).unwrap()).await
    }
}

/// Waits until `n` calls have ended since the start.
pub(super) async fn ended(sim: &Simulator, n: usize) -> Vec<CallRecord> {
    let ended = wait(n as u64, || {
        let mut calls = sim.calls();
        calls.retain(|call| call.has_ended);
        (calls.len() as u64, calls)
    });
    ended.await.unwrap()
}

pub(super) fn token_request(sim: &Simulator, tenant: &str) -> http::request::Builder {
    Request::post(format!("{}{tenant}/oauth2/v2.0/token", sim.authority()))
        .header("content-type", "application/x-www-form-urlencoded")
}

pub(super) fn call(sim: &Simulator, region: &str, token: &str) -> http::request::Builder {
    call_to(sim, region, token, Method::POST, PATH)
}

pub(super) fn call_to(
    sim: &Simulator,
    region: &str,
    token: &str,
    method: Method,
    target: &str,
) -> http::request::Builder {
    let base = sim.region(region).unwrap();
    Request::builder()
        .method(method)
        .uri(base.join(target).unwrap().as_str())
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
}

pub(super) fn body(ids: &[&str]) -> Bytes {
    serde_json::json!({ "ScanDefinitionIds": ids }).to_string().into()
}
