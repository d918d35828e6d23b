//! The configuration changes while the gateway runs.

mod credentials;
mod file;
mod key;
mod limits;
mod load;
mod log;
mod mount;

use defender_gateway::testing::config::Key;

fn paths(keys: &[&Key]) -> Vec<String> {
    keys.iter().map(|key| key.path()).collect()
}
