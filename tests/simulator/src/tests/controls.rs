//! What tests change in a running simulator, and what they wait for; those of the whole gateway use
//! this file, too.

use std::time::Duration;

use super::sim::{
    Action, CallRecord, Certificate, Fault, Plan, Region, SecretString, SignInFault, Simulator, TokenRecord,
};

/// Only a test that fails waits this long.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) trait Controls {
    fn simulator(&self) -> &Simulator;

    /// Moves a region nearer or farther; `None` when no region has that name.
    fn set_latency(&self, region: &str, latency: Duration) -> Option<()> {
        set_region(self.simulator(), region, |region| region.latency = latency)
    }

    /// Sets a region's faults; [`Plan::none`] removes them. `None` when no region has that name.
    fn set_faults(&self, region: &str, plan: &Plan<Fault>) -> Option<()> {
        set_region(self.simulator(), region, |region| region.faults.clone_from(plan))
    }

    /// Sets the faults of every region, each with its own counts.
    fn set_faults_everywhere(&self, plan: &Plan<Fault>) {
        self.simulator().change(|config| {
            for region in &mut config.regions {
                region.faults.clone_from(plan);
            }
        });
    }

    fn set_sign_in_faults(&self, plan: Plan<SignInFault>) {
        self.simulator().change(|config| config.sign_in.faults = plan);
    }

    /// Sets the roles of tokens issued from now on. Without the usual one, Defender answers 403.
    fn set_roles(&self, roles: &[&str]) {
        let roles = roles.iter().map(ToString::to_string).collect();
        self.simulator().change(|config| config.sign_in.roles = roles);
    }

    /// Tokens issued from now on live this long, and should be renewed after `refresh_in`.
    fn set_token_lifetime(&self, lifetime: Duration, refresh_in: Option<Duration>) {
        self.simulator().change(|config| {
            config.token_lifetime = lifetime;
            config.sign_in.refresh_in = refresh_in;
        });
    }

    /// Replaces the app's secret; the old one is rejected as expired. Tokens stay valid.
    fn set_secret(&self, secret: SecretString) {
        self.simulator().change(|config| {
            let old = std::mem::replace(&mut config.client_secret, secret);
            config.expired_secret = Some(old);
        });
    }

    /// Registers another certificate for the app.
    fn register_certificate(&self, certificate: Certificate) {
        self.simulator().change(|config| config.certificates.push(certificate));
    }

    /// Registers another issuer's token for the app; a second one replaces the first.
    fn register_federated_token(&self, token: SecretString) {
        self.simulator().change(|config| config.federated_token = Some(token));
    }

    /// Every token issued so far gets 401 from now on.
    async fn revoke_tokens(&self) {
        self.simulator().apply(Action::RevokeTokens).await.unwrap();
    }

    /// Resets all connections, to all regions and to sign-in.
    async fn cut_connections(&self) {
        let all = Action::CutConnections { region: None };
        self.simulator().apply(all).await.unwrap();
    }

    /// Stops a region's host, connections included. When this returns, connecting is refused.
    async fn shut(&self, region: &str) -> std::io::Result<()> {
        let region = region.to_owned();
        self.simulator().apply(Action::Shut { region }).await
    }

    /// Starts a region's host again, on the same port.
    async fn open(&self, region: &str) -> std::io::Result<()> {
        let region = region.to_owned();
        self.simulator().apply(Action::Open { region }).await
    }

    /// Every definition is scanned once more: one newer row each.
    async fn scan(&self) {
        self.simulator().apply(Action::Scan).await.unwrap();
    }

    /// The App Service form of managed identity: the value of `IDENTITY_ENDPOINT`.
    fn app_service_endpoint(&self) -> String {
        format!("{}msi/token", self.simulator().authority())
    }

    /// Waits until `n` requests have arrived since the start.
    async fn wait_for_calls(&self, n: u64) -> Result<Vec<CallRecord>, String> {
        wait(n, || {
            let calls = self.simulator().calls();
            (calls.last().map_or(0, |last| last.number + 1), calls)
        })
        .await
    }

    /// Waits until `n` token requests have been answered since the start.
    async fn wait_for_token_requests(&self, n: u64) -> Result<Vec<TokenRecord>, String> {
        wait(n, || {
            let requests = self.simulator().token_requests();
            (requests.len() as u64, requests)
        })
        .await
    }
}

impl Controls for Simulator {
    fn simulator(&self) -> &Simulator {
        self
    }
}

fn set_region(simulator: &Simulator, name: &str, set: impl FnOnce(&mut Region)) -> Option<()> {
    simulator.change(|config| {
        let mut regions = config.regions.iter_mut();
        regions.find(|region| region.name == name).map(set)
    })
}

/// Looks until so many records have been seen.
pub(super) async fn wait<T>(n: u64, mut look: impl FnMut() -> (u64, T)) -> Result<T, String> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match look() {
            (seen, records) if seen >= n => return Ok(records),
            (seen, _) if tokio::time::Instant::now() > deadline => {
                return Err(format!("waited {PATIENCE:?} for {n}, saw {seen}"));
            }
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}
