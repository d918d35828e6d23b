use std::time::Duration;

use bytes::Bytes;
use defender_gateway::testing::clock::Wall;
use defender_gateway::testing::secret::Secret;
use defender_gateway::testing::task::Tasks;
use defender_gateway::testing::token::{
    App, Config, Credential, Identity, IdentityHost, Metrics, Scope, SecretSource, TokenSource,
};
use http::{HeaderValue, Request, Response};
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, service_fn};
use url::Url;

/// What an answer may repeat, and nobody may say.
const SECRET: &str = "hunter2hunter2";

fn credential(which: u8) -> Credential {
    let url = |text: &str| Url::parse(text).expect("an address");
    if which == b'i' {
        let address = url("http://169.254.169.254");
        let host = IdentityHost::Imds { address };
        return Credential::ManagedIdentity(Identity { host, client_id: None });
    }
    Credential::ClientSecret {
        app: App::new(&url("https://login.microsoftonline.com"), "t", "c"),
        secret: SecretSource::Value(Secret::new(SECRET.into())),
    }
}

/// A letter for the credential, a status, the fields in further lines, an empty line, the body:
/// whatever sign-in answers, there is a token that can be sent, or a failure that repeats no secret
/// and waits no longer than an hour.
pub(crate) fn sign_in(data: &[u8]) {
    let (head, body) = super::parts(data);
    let (line, fields) = head.split_at(head.iter().position(|byte| *byte == b'\n').unwrap_or(head.len()));
    let Some((which, status)) = line.split_first() else {
        return;
    };
    let Ok(status) = http::StatusCode::from_bytes(status) else {
        return;
    };
    let body = Bytes::copy_from_slice(body);
    let fields = super::headers(fields);
    let answer = service_fn(move |_: Request<Bytes>| {
        let mut answer = Response::new(body.clone());
        *answer.status_mut() = status;
        *answer.headers_mut() = fields.clone();
        std::future::ready(Ok::<_, BoxError>(answer))
    });
    let exchange = BoxCloneSyncService::new(answer);
    super::at_once(async {
        let config = Config {
            credential: credential(*which),
            scope: Scope::new("https://api.securitycenter.microsoft.com/.default"),
        };
        let wall = Wall::anchored(Timestamp::from_second(1_790_000_000).expect("a moment of our time"));
        let metrics = Metrics::register(&mut Registry::default());
        let token_source = TokenSource::start(config, exchange.clone(), exchange, wall, &Tasks::new(), metrics);
        let bearer = token_source.bearer(Instant::now() + Duration::from_secs(30)).await;
        let snapshot = token_source.snapshot();
        match bearer {
            Ok(bearer) => {
                assert!(HeaderValue::try_from(format!("Bearer {}", bearer.secret().expose())).is_ok());
                assert!(!bearer.secret().expose().is_empty() && bearer.expires() > Instant::now());
            }
            Err(error) => {
                let said = format!("{error} {error:?} {snapshot:?} {:?}", error.advice());
                // A managed identity has none to tell.
                assert!(*which == b'i' || !said.contains(SECRET), "{said}");
                assert!(said.len() < 10_000);
                let longest = Duration::from_hours(1);
                assert!(snapshot.last_error.is_none_or(|error| error.retry_in <= longest));
            }
        }
    });
}
