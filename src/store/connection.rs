//! Opening a connection, whatever kind of store it is.

use std::path::Path;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, Pipeline, RedisConnectionInfo,
    RedisFuture, TlsCertificates, Value,
};

use super::address::Kind;
use super::config::Config;
use super::error::Error;
use super::sentinel;

/// Opening a connection takes several answers: TCP, TLS, AUTH, and who is the master.
const ANSWERS_TO_CONNECT: u32 = 4;

/// How often a cluster may send one question elsewhere, because a slot has just moved.
const REDIRECTS: u32 = 2;

/// An open connection. Clones share it, and ask over it at the same time.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Connects to the master, or the cluster.
    pub(super) async fn open(config: &Config) -> Result<Self, Error> {
        within(config.timeout * ANSWERS_TO_CONNECT, async {
            let access = Access::read(config).await?;
            if config.address.kind != Kind::Cluster {
                let master = access.master(config).await?;
                return Ok(Self::One(connect(&master).await?));
            }
            let servers = config.address.servers.iter();
            let servers = servers.map(|server| server.clone().set_redis_settings(access.settings.clone()));
            let mut cluster = ClusterClient::builder(servers)
                .retries(REDIRECTS)
                .min_retry_wait(1)
                .max_retry_wait(10)
                .connection_timeout(config.timeout)
                .response_timeout(config.timeout);
            if let Some(tls) = access.tls {
                cluster = cluster.certs(tls);
            }
            Ok(Self::Cluster(cluster.build()?.get_async_connection().await?))
        })
        .await
    }
}

/// A client for one server that hears what is published: the master, or any server of a cluster.
pub(super) async fn listener(config: &Config) -> Result<Client, Error> {
    let access = Access::read(config).await?;
    if config.address.kind != Kind::Cluster {
        return access.master(config).await;
    }
    let mut last = None;
    for server in &config.address.servers {
        let client = access.client(server.clone().set_redis_settings(access.settings.clone()))?;
        match within(config.timeout, async { Ok(connect(&client).await?) }).await {
            Ok(_) => return Ok(client),
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

pub(super) async fn connect(client: &Client) -> Result<MultiplexedConnection, redis::RedisError> {
    // The time limits are ours, around each question; the crate's own would only add a second set.
    let limits = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&limits).await
}

/// What lets us in, as the files say now.
pub(super) struct Access {
    settings: RedisConnectionInfo,
    tls: Option<TlsCertificates>,
}

impl Access {
    async fn read(config: &Config) -> Result<Self, Error> {
        let mut settings = (*config.address.settings).clone();
        if let Some(path) = &config.password_file {
            let content = read("store.password_file", path).await?;
            let text = String::from_utf8_lossy(&content);
            // Editors and `echo` end files with a newline, which is no part of a password.
            settings = settings.set_password(text.trim_end_matches(['\r', '\n']));
        }
        Ok(Self {
            settings,
            tls: if config.address.is_tls {
                Some(tls(config).await?)
            } else {
                None
            },
        })
    }

    /// The server that is the master now.
    async fn master(&self, config: &Config) -> Result<Client, Error> {
        let Kind::Sentinel(group) = &config.address.kind else {
            return self.client(
                config.address.servers[0]
                    .clone()
                    .set_redis_settings(self.settings.clone()),
            );
        };
        let sentinels = config.address.servers.iter().map(|server| self.client(server.clone()));
        let sentinels = sentinels.collect::<Result<Vec<_>, _>>()?;
        let (host, port) = sentinel::master(sentinels, group, config.timeout).await?;
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
        self.client(server.set_redis_settings(self.settings.clone()))
    }

    fn client(&self, server: ConnectionInfo) -> Result<Client, Error> {
        Ok(match &self.tls {
            Some(tls) => Client::build_with_tls(server, tls.clone())?,
            None => Client::open(server)?,
        })
    }
}

async fn tls(config: &Config) -> Result<TlsCertificates, Error> {
    let root_cert = match &config.ca_file {
        Some(path) => Some(read("store.ca_file", path).await?),
        None => None,
    };
    let client_tls = match &config.certificate_file {
        Some(path) => {
            let pem = read("store.certificate_file", path).await?;
            Some(ClientTlsConfig {
                client_cert: pem.clone(),
                client_key: pem,
            })
        }
        None => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

async fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path)
        .await
        .map_err(|source| Error::File { key, source })
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
