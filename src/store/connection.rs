//! Opening a connection, whatever kind of store it is, and finding out which server is the master.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, ProtocolVersion,
    RedisConnectionInfo, RedisResult, TlsCertificates,
};
use rustls::ClientConfig;
use tokio_util::sync::DropGuard;

use crate::plain_text;
use crate::store::Error;
use crate::store::address::{Config, Kind, MOST_PATIENT};
use crate::store::limited_stream::{Allowance, Pem, Unheard, Wire, tls_config};
use crate::store::subscription::Subscribers;
use crate::task::Tasks;

/// Opening a connection takes several answers: TCP, TLS, AUTH, and who is the master.
const ANSWERS_TO_CONNECT: u32 = 4;

/// How often a cluster may send one command elsewhere, because a slot has just moved.
const REDIRECTS: u32 = 2;

/// An open connection. Clones share it, and ask over it at the same time; it is closed with the
/// last of them.
#[derive(Clone)]
pub(super) enum Connection {
    /// To one server.
    One {
        connection: MultiplexedConnection,
        /// Whether messages come over it, too.
        hears: bool,
        /// Its task goes on for as long as an answer is outstanding, so that it has to be ended.
        _driver: Arc<DropGuard>,
    },
    Cluster(ClusterConnection),
}

impl Connection {
    /// Connects to the master, or the cluster; where messages can come over the connection, it
    /// subscribes.
    pub(super) async fn open(config: &Config, subscribers: &Arc<Subscribers>) -> Result<Self, Error> {
        within(longest(config), async {
            let access = Access::read(config).await?;
            if config.address.kind != Kind::Cluster {
                let master = access.master(config).await?;
                return match master.connect(Some(subscribers)).await {
                    // It speaks an older protocol, over which either commands are sent or messages
                    // come.
                    Err(error) if error.is_answer() => master.connect(None).await,
                    connected => connected,
                };
            }
            let servers = config.address.servers.iter();
            let servers = servers.map(|server| server.clone().set_redis_settings(access.settings.clone()));
            let mut cluster = ClusterClient::builder(servers)
                .retries(REDIRECTS)
                .min_retry_wait(1)
                .max_retry_wait(10)
                .connection_timeout(config.timeout)
                // Shorter waits end by themselves, see `within`.
                .response_timeout(config.timeout * MOST_PATIENT);
            if let Some(pem) = access.pem {
                cluster = cluster.certs(TlsCertificates {
                    client_tls: pem.own.map(|own| ClientTlsConfig {
                        client_cert: own.clone(),
                        client_key: own,
                    }),
                    root_cert: pem.authorities,
                });
            }
            Ok(Self::Cluster(cluster.build()?.get_async_connection().await?))
        })
        .await
    }

    /// Sends a command, and waits for its answer.
    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::One { connection, .. } => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }

    /// Whether messages come over it.
    pub(super) fn hears(&self) -> bool {
        matches!(self, Self::One { hears: true, .. })
    }

    /// Has what is said on `channel` come over it.
    pub(super) async fn subscribe(&mut self, channel: &str) -> Result<(), Error> {
        if let Self::One { connection, .. } = self {
            connection.subscribe(channel).await?;
        }
        Ok(())
    }
}

/// A connection that hears what is published on `channels`: to the master, or to any server of a
/// cluster.
pub(super) async fn listener(config: &Config, channels: &[String]) -> Result<(PubSub, Unheard), Error> {
    let servers = within(longest(config), async {
        let access = Access::read(config).await?;
        if config.address.kind != Kind::Cluster {
            return Ok(vec![access.master(config).await?]);
        }
        let servers = config.address.servers.iter();
        let servers = servers.map(|server| access.server(server.clone().set_redis_settings(access.settings.clone())));
        servers.collect()
    })
    .await?;
    let mut last = None;
    for server in servers {
        match within(longest(config), server.subscribe(channels)).await {
            Ok(listening) => return Ok(listening),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(Error::Resting))
}

/// `what`, or an error after `limit`.
pub(super) async fn within<T>(limit: Duration, what: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, what)
        .await
        .map_err(|_| Error::Timeout(limit))?
}

/// The longest that opening a connection may take.
pub(super) fn longest(config: &Config) -> Duration {
    config.timeout * ANSWERS_TO_CONNECT
}

/// One server, and how to be let in there.
struct Server {
    info: ConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
}

impl Server {
    /// Opens a connection for commands, and for the messages of `subscribers`. The time limits are
    /// ours, around each command; the library's own would only add a second set.
    async fn connect(&self, subscribers: Option<&Arc<Subscribers>>) -> Result<Connection, Error> {
        let wire = self.wire(Allowance::commands()).await?;
        let mut limits = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let mut settings = self.info.redis_settings().clone();
        if let Some(subscribers) = subscribers {
            let subscribers = Arc::clone(subscribers);
            settings = settings.set_protocol(ProtocolVersion::RESP3);
            limits = limits.set_push_sender(move |push| {
                subscribers.pushed(push);
                Ok::<(), Infallible>(())
            });
        }
        let opened = MultiplexedConnection::new_with_config(&settings, wire, limits).await;
        let (mut connection, driver) = opened?;
        let (tasks, guard) = Tasks::new().branch();
        tasks.spawn_upkeep("store connection", driver);
        let channels = subscribers
            .map(|subscribers| subscribers.channels())
            .unwrap_or_default();
        if !channels.is_empty() {
            // At once: the time to connect has to do for a store that is far away.
            connection.subscribe(channels).await?;
        }
        Ok(Connection::One {
            connection,
            hears: subscribers.is_some(),
            _driver: Arc::new(guard),
        })
    }

    /// Opens a connection for messages on these channels.
    async fn subscribe(&self, channels: &[String]) -> Result<(PubSub, Unheard), Error> {
        let unheard = Unheard::default();
        let wire = self.wire(Allowance::Messages(unheard.clone())).await?;
        let mut subscription = PubSub::new(self.info.redis_settings(), wire).await?;
        subscription.subscribe(channels).await?;
        Ok((subscription, unheard))
    }

    async fn wire(&self, allowance: Allowance) -> Result<Wire, Error> {
        let wire = Wire::open(&self.info, self.tls.as_ref(), allowance).await;
        // As the library says it of its own connections.
        wire.map_err(|error| Error::Failed(error.into()))
    }
}

/// What lets us in, as the files say now.
struct Access {
    settings: RedisConnectionInfo,
    pem: Option<Pem>,
}

impl Access {
    async fn read(config: &Config) -> Result<Self, Error> {
        let mut settings = (*config.address.settings).clone();
        if let Some(path) = &config.password_file {
            let content = read("store.password_file", path).await?;
            let text = String::from_utf8_lossy(plain_text::without_mark(&content));
            // Editors and `echo` end files with a newline, which is no part of a password.
            settings = settings.set_password(text.trim_end_matches(['\r', '\n']));
        }
        let mut pem = None;
        if config.address.is_tls {
            pem = Some(Pem {
                authorities: read_pem("store.ca_file", config.ca_file.as_ref()).await?,
                own: read_pem("store.certificate_file", config.certificate_file.as_ref()).await?,
            });
        }
        Ok(Self { settings, pem })
    }

    /// The server that is the master now.
    async fn master(&self, config: &Config) -> Result<Server, Error> {
        let Kind::Sentinel(group) = &config.address.kind else {
            let server = config.address.servers[0].clone();
            return self.server(server.set_redis_settings(self.settings.clone()));
        };
        let sentinels = config.address.servers.iter().map(|server| self.server(server.clone()));
        let sentinels = sentinels.collect::<Result<Vec<_>, _>>()?;
        let (host, port) = master_by_sentinels(sentinels, group, config.timeout).await?;
        let address = if config.address.is_tls {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let server = config.address.servers[0].clone().set_addr(address);
        self.server(server.set_redis_settings(self.settings.clone()))
    }

    fn server(&self, info: ConnectionInfo) -> Result<Server, Error> {
        let tls = self.pem.as_ref().map(tls_config).transpose()?;
        Ok(Server { info, tls })
    }
}

async fn read_pem(key: &'static str, path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, Error> {
    let Some(path) = path else { return Ok(None) };
    let content = read(key, path).await?;
    let text = plain_text::pem(&content).map_err(|_| Error::Pem { key })?;
    Ok(Some(text.into_owned()))
}

async fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path)
        .await
        .map_err(|source| Error::File { key, source })
}

type Master = (String, u16);

/// The master of `group`. Whether it really is one shows when it is asked: a replica refuses to
/// write.
async fn master_by_sentinels(sentinels: Vec<Server>, group: &str, timeout: Duration) -> Result<Master, Error> {
    let asked = sentinels.len();
    let mut answers: FuturesUnordered<_> = sentinels
        .into_iter()
        .map(|sentinel| within(timeout * 2, ask_sentinel(sentinel, group)))
        .collect();
    let mut votes: HashMap<Master, usize> = HashMap::new();
    let mut failure = None;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Some(server)) => {
                let named = votes.entry(server.clone()).or_default();
                *named += 1;
                if *named * 2 > asked {
                    return Ok(server);
                }
            }
            Ok(None) => {}
            Err(error) => failure = Some(error),
        }
    }
    let named = votes.into_values().max().unwrap_or(0);
    // With nobody reached, why is more useful than how many.
    match failure {
        Some(error) if named == 0 => Err(error),
        _ => Err(Error::NoMaster { named, asked }),
    }
}

async fn ask_sentinel(sentinel: Server, group: &str) -> Result<Option<Master>, Error> {
    let mut connection = sentinel.connect(None).await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(group);
    Ok(connection.query(&command).await?)
}
