//! `healthcheck`: is the gateway alive? For probes that run a command, in an image that has no
//! shell and no curl. And `wait`: returns once the gateway has started. For start scripts where
//! nothing else orders containers.

use std::time::Duration;

use http::StatusCode;
use tokio::time::{self, Instant};

use super::admin_client::{AdminAddress, ask};
use super::process::block_on_one;
use super::{Error, Healthcheck, Wait};
use crate::config::{Environment, show_duration};
use crate::telemetry::log::steers;

/// A live gateway answers in microseconds; Docker and the kubelet give up after a few seconds by
/// themselves.
const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds when the gateway answers that it lives, or with `--ready` that it takes requests.
///
/// # Errors
/// Nobody answers at the address, or the answer is no.
pub fn healthcheck(asked: &Healthcheck) -> Result<(), Error> {
    let admin = AdminAddress::choose(asked.gateway.admin.as_ref(), &Environment::real())?;
    let path = if asked.ready { "/readyz" } else { "/livez" };
    block_on_one(check(&admin, path))
}

async fn check(admin: &AdminAddress, path: &str) -> Result<(), Error> {
    match ask(admin, path, PATIENCE).await {
        Ok((StatusCode::OK, _)) => Ok(()),
        Ok((status, text)) => Err(Error::user(format!(
            "{admin}{path} answers {}: {}",
            status.as_u16(),
            excerpt(&text)
        ))),
        Err(error) => Err(Error::user(format!("no gateway answers at {admin}: {error}"))),
    }
}

/// The first line of an answer. While the gateway is down, anybody on this machine may listen in its
/// place: nothing in the text may steer the terminal.
fn excerpt(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let short: String = line.chars().take(200).collect();
    short.replace(steers, "?")
}

/// A gateway starts in a few milliseconds; asking ten times a second costs nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks until the gateway has started, for as long as `--max` says.
///
/// # Errors
/// It has not started by then; the last answer is told.
pub fn wait(asked: &Wait) -> Result<(), Error> {
    let admin = AdminAddress::choose(asked.gateway.admin.as_ref(), &Environment::real())?;
    block_on_one(until_started(&admin, asked.max))
}

async fn until_started(admin: &AdminAddress, max: Duration) -> Result<(), Error> {
    let end = Instant::now() + max;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // The last request, too, gets a moment for its answer.
        let why = match ask(admin, "/startupz", left.max(PAUSE)).await {
            Ok((StatusCode::OK, _)) => return Ok(()),
            Ok((status, text)) => format!("the last answer was {}: {}", status.as_u16(), excerpt(&text)),
            Err(error) => error.to_string(),
        };
        if Instant::now() + PAUSE >= end {
            let max = show_duration(max);
            return Err(Error::user(format!(
                "no gateway has started at {admin} within {max}: {why}"
            )));
        }
        time::sleep(PAUSE).await;
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

    #[test]
    fn an_answer_is_told_in_one_line_that_does_not_steer_the_terminal() {
        assert_eq!(excerpt("draining\n"), "draining");
        assert_eq!(excerpt("a\u{1b}]52;c;x\u{7}b\nc"), "a?]52;c;x?b");
        assert_eq!(excerpt("a\u{202e}b\u{2028}c"), "a?b?c");
        assert_eq!(excerpt(&"é".repeat(1000)).chars().count(), 200);
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

    #[tokio::test]
    async fn it_waits_until_the_gateway_has_started() {
        let gateway = Answering::tcp(Answers::AfterRefusals(2)).await;
        until_started(&gateway.admin, Duration::from_mins(1)).await.unwrap();
        assert_eq!(gateway.paths(), ["/startupz"; 3]);
    }

    #[tokio::test]
    async fn it_gives_up_and_says_what_it_saw() {
        let gateway = Answering::tcp(Answers::Always(503)).await;
        let error = until_started(&gateway.admin, Duration::ZERO)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("within 0s: the last answer was 503: draining"),
            "{error}"
        );

        let nobody = Answering::tcp(Answers::Never).await;
        let started = Instant::now();
        let error = until_started(&nobody.admin, Duration::from_millis(250))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("within 250ms"), "{error}");
        assert!(started.elapsed() >= Duration::from_millis(100));
    }
}
