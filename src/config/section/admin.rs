//! `[admin]`: health, metrics and status.

use super::declare::{keys, section};
use super::server;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader};
use crate::server::Address;

section! {
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Admin: "admin", "health, metrics and status";

    /// Where health, metrics and status are served. It reveals no secret and lets other machines
    /// change nothing, so they may reach it: in Kubernetes use `[::]:9901`, because the kubelet and
    /// Prometheus connect to the pod's address.
    listen: Address = Key::text(
        "one of \"127.0.0.1:9901\", \"[::]:9901\", \"unix:/run/defender-gateway/admin.sock\"",
        "127.0.0.1:9901",
    ) => listen;

    /// Whether `POST /quitquitquit` from loopback drains and ends the program; for Jobs on clusters
    /// without native sidecars.
    quit: bool = Key::flag(false) => Reader::flag;
}

/// It collides with none of the server's.
fn listen(reader: &mut Reader<'_>, key: &'static Key) -> Read<Address> {
    let listen = reader.parsed(key, str::parse::<Address>)?;
    let taken = reader.each(&server::key::listen, str::parse::<Address>)?;
    match taken.iter().find(|taken| taken.value.collides(&listen)) {
        Some(taken) => {
            let taken = &taken.value;
            let problem = format!(
                "{listen} cannot be bound: server.listen has {taken}; callers and operators need an address each"
            );
            Err(reader.wrong(key, problem))
        }
        None => Ok(listen),
    }
}
