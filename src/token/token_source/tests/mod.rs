//! The life of tokens, in virtual time.

mod failure;
mod life;
mod rotation;
mod secrecy;

use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::TokenSource;
use crate::clock::Wall;
use crate::task::Tasks;
use crate::token::testing::{self, Reply, Service};
use crate::token::{Config, Error, Metrics};

fn start(config: Config, service: &Service, tasks: &Tasks) -> TokenSource {
    let metrics = Metrics::register(&mut Registry::default());
    let wall = Wall::system();
    TokenSource::start(config, service.exchange(), testing::unused(), wall, tasks, metrics)
}

fn token_source(service: &Service, tasks: &Tasks) -> TokenSource {
    start(testing::secret_config(), service, tasks)
}

/// Names tokens by the number of the request.
fn numbered() -> Service {
    Service::new(|number, _| Reply::token(&format!("t{number}")))
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn soon() -> Instant {
    Instant::now() + secs(30)
}

async fn token(token_source: &TokenSource) -> Result<String, Error> {
    let bearer = token_source.bearer(soon()).await?;
    Ok(bearer.secret().expose().to_owned())
}
