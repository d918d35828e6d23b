//! `[admin]`: health, metrics and status.

use crate::config::key::{DefaultValue, Key, Kind};
use crate::config::reader::Reader;
use crate::config::section::Server;
use crate::config::value::Listen;

static LISTEN: Key = Key::new(
    "admin",
    "listen",
    Kind::Text("one of \"127.0.0.1:9901\", \"[::]:9901\", \"unix:/run/defender-gateway/admin.sock\""),
    DefaultValue::Text("127.0.0.1:9901"),
    "Where health, metrics and status are served. It reveals no secret and changes nothing, so other machines may reach it: in \
     Kubernetes use `[::]:9901`, because the kubelet and Prometheus connect to the pod's address.",
);
static QUIT: Key = Key::new(
    "admin",
    "quit",
    Kind::Flag,
    DefaultValue::Flag(false),
    "Whether `POST /quitquitquit` from loopback drains and ends the program; for Jobs on clusters without native sidecars.",
);

pub(super) static KEYS: &[&Key] = &[&LISTEN, &QUIT];

/// Where health, metrics and status are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The address; it collides with none of the server's.
    pub listen: Listen,
    /// Whether `POST /quitquitquit` is served to loopback.
    pub quit: bool,
}

impl Admin {
    pub(in crate::config) fn read(reader: &mut Reader<'_>, server: Option<&Server>) -> Option<Self> {
        let listen = reader.parsed(&LISTEN, str::parse::<Listen>);
        let quit = reader.flag(&QUIT);
        if let (Some(listen), Some(server)) = (&listen, server)
            && let Some(taken) = server.listen.iter().find(|taken| taken.collides(listen))
        {
            let problem = format!(
                "{listen} cannot be bound: server.listen has {taken}; callers and operators need an address each"
            );
            reader.wrong(&LISTEN, problem);
        }
        Some(Self {
            listen: listen?,
            quit: quit?,
        })
    }
}
