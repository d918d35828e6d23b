//! Sign-in with any of the four kinds of credential.

use std::future::Future;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout};

use super::entra::{self, Failed};
use super::identity;
use super::issued::Issued;
use crate::clock::Wall;
use crate::net::Exchange;
use crate::token::credential::CredentialProvider;
use crate::token::{Config, Credential, Error, Problem, Reason, Scope, Warning, aadsts};

/// How long one exchange may take, from the first byte sent to the last one received.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);

/// How long reading the credential files may take.
const READING_LIMIT: Duration = Duration::from_secs(5);

/// A smaller difference between the clocks does not explain a rejection.
const SKEW_WORTH_TRYING: SignedDuration = SignedDuration::from_secs(60);

/// How early the expiry of a certificate is announced.
const CERTIFICATE_WARNING: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Asks for tokens, one at a time.
#[derive(Debug)]
pub(in crate::token) struct SignIn {
    provider: CredentialProvider,
    scope: Scope,
    exchange: Exchange,
    wall: Wall,
    /// The difference between sign-in's clock and this machine's, learnt when an assertion is
    /// rejected.
    skew: SignedDuration,
}

impl SignIn {
    /// `imds` reaches link-local addresses directly; the metadata service does not work through
    /// proxies.
    pub(in crate::token) fn new(config: Config, exchange: Exchange, imds: Exchange, wall: Wall) -> Self {
        let is_managed = matches!(config.credential, Credential::ManagedIdentity(_));
        Self {
            exchange: if is_managed { imds } else { exchange },
            provider: CredentialProvider::new(config.credential),
            scope: config.scope,
            wall,
            skew: SignedDuration::ZERO,
        }
    }

    /// Makes one token request, and a second one only if the first may have been rejected because
    /// of this machine's clock.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future abandons the request.
    pub(in crate::token) async fn ask(&mut self) -> Result<Issued, Error> {
        if let Credential::ManagedIdentity(identity) = &self.provider.credential {
            let asked = Instant::now();
            let answer = identity::ask(identity, &self.scope, self.exchange.clone(), self.wall.now());
            return Ok(within_limit(answer).await??.since(asked));
        }
        match self.ask_entra().await? {
            Ok(issued) => Ok(issued),
            Err(failed) if self.learn_clock_skew(&failed) => self.ask_entra().await?.map_err(|failed| failed.error),
            Err(failed) => Err(failed.error),
        }
    }

    /// Whether the credential files have contents worth trying: any change if `failing`, else only
    /// changes made by people.
    pub(in crate::token) async fn has_changed(&self, failing: bool) -> bool {
        // A file system that hangs counts as unchanged.
        (failing || self.provider.is_rotated_by_hand())
            && timeout(READING_LIMIT, self.provider.has_changed())
                .await
                .unwrap_or(false)
    }

    /// Whether there are files to watch.
    pub(in crate::token) fn has_files(&self) -> bool {
        self.provider.is_on_disk()
    }

    /// When the credential in use was first read, and for how many seconds its certificate is still
    /// valid (negative if it has expired).
    pub(in crate::token) fn credential_age(&self) -> (Option<Timestamp>, Option<f64>) {
        let (now, provider) = (self.wall.now(), &self.provider);
        let left = provider.expires.map(|at| at.duration_since(now).as_secs_f64());
        (provider.loaded, left)
    }

    /// What was noticed and needs attention.
    pub(in crate::token) fn warnings(&self) -> Vec<Warning> {
        let (now, provider) = (self.wall.now(), &self.provider);
        let open = provider.open_file.clone().map(|path| Warning::FileTooOpen { path });
        let soon = |at: &Timestamp| at.duration_since(now) < CERTIFICATE_WARNING;
        let expiry = provider
            .expires
            .filter(soon)
            .map(|at| Warning::CertificateExpiry { at });
        let mut warnings: Vec<_> = open.into_iter().chain(expiry).collect();
        if !self.skew.is_zero() {
            warnings.push(Warning::ClockSkew {
                seconds: self.skew.as_secs(),
            });
        }
        warnings
    }

    /// The inner result is sign-in's; the outer one fails when no request could be made.
    async fn ask_entra(&mut self) -> Result<Result<Issued, Failed>, Error> {
        let now = self.wall.now().checked_add(self.skew).unwrap_or(Timestamp::MAX);
        let Ok(proof) = timeout(READING_LIMIT, self.provider.proof(now)).await else {
            return Err(Error::unusable(Problem::FileUnreadable, "reading takes too long"));
        };
        let proof = proof?;
        let Some(app) = self.provider.credential.app() else {
            return Err(Error::unavailable(Reason::Stopped));
        };
        let asked = Instant::now();
        let answer = entra::ask(app, &self.scope, &proof, self.exchange.clone(), self.wall.now());
        let answer = within_limit(answer).await?;
        Ok(answer.map(|issued| issued.since(asked)))
    }

    /// Whether the clocks differ so much that an assertion signed with sign-in's clock may be
    /// accepted.
    fn learn_clock_skew(&mut self, failed: &Failed) -> bool {
        let signed_here = matches!(self.provider.credential, Credential::Certificate { .. });
        let Error::Refused { code, .. } = &failed.error else {
            return false;
        };
        let Some(theirs) = failed.server_time.filter(|_| signed_here && aadsts::may_be_clock(code)) else {
            return false;
        };
        let skew = theirs.duration_since(self.wall.now());
        let worth_it = (skew - self.skew).abs() > SKEW_WORTH_TRYING;
        if worth_it {
            self.skew = if skew.abs() > SKEW_WORTH_TRYING {
                skew
            } else {
                SignedDuration::ZERO
            };
        }
        worth_it
    }
}

async fn within_limit<T>(exchange: impl Future<Output = T>) -> Result<T, Error> {
    timeout(EXCHANGE_LIMIT, exchange)
        .await
        .map_err(|_| Error::unavailable(Reason::TimedOut))
}
