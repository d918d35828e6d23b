//! `healthcheck`: is the gateway alive? For probes that run a command, in an image that has no
//! shell and no curl.

use std::time::Duration;

use http::StatusCode;

use super::admin_client::{AdminAddress, ask};
use super::runtime::block_on_one;
use super::{Error, Healthcheck};
use crate::config::Environment;

/// A live gateway answers in microseconds; Docker and the kubelet give up after a few seconds by
/// themselves.
const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds when the gateway answers that it lives, or with `--ready` that it takes requests.
///
/// # Errors
/// Nobody answers at the address, or the answer is no.
pub fn healthcheck(asked: &Healthcheck) -> Result<(), Error> {
    let admin = AdminAddress::choose(asked.admin.as_ref(), &Environment::real())?;
    let path = if asked.ready { "/readyz" } else { "/livez" };
    block_on_one(check(&admin, path))
}

async fn check(admin: &AdminAddress, path: &str) -> Result<(), Error> {
    match ask(admin, path, PATIENCE).await {
        Ok((StatusCode::OK, _)) => Ok(()),
        Ok((status, text)) => Err(Error::user(format!(
            "{admin}{path} answers {}: {}",
            status.as_u16(),
            text.trim()
        ))),
        Err(error) => Err(Error::user(format!("no gateway answers at {admin}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{Answering, Answers};

    #[tokio::test]
    async fn only_200_is_health() {
        let gateway = Answering::tcp(Answers::Always(200)).await;
        check(&gateway.admin, "/livez").await.unwrap();
        assert_eq!(gateway.paths(), ["/livez"]);

        let gateway = Answering::tcp(Answers::Always(503)).await;
        let error = check(&gateway.admin, "/readyz").await.unwrap_err().to_string();
        assert!(error.contains("/readyz answers 503: draining"), "{error}");
    }

    #[tokio::test]
    async fn a_unix_socket_is_asked_as_well() {
        let gateway = Answering::unix(Answers::Always(200));
        check(&gateway.admin, "/livez").await.unwrap();
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        let gateway = Answering::tcp(Answers::Never).await;
        let error = check(&gateway.admin, "/livez").await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("no gateway answers at {}", gateway.admin)),
            "{error}"
        );
    }
}
