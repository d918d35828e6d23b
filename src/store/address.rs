//! Where the store is, as written in `store.url`, and how to be let in.

use std::path::PathBuf;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo};
use url::Url;

use crate::store::InvalidAddress;

/// Where a store is, and as whom to sign in there. Its `Debug` form shows no password.
#[derive(Clone, Debug)]
pub struct Address {
    pub(super) kind: Kind,
    /// One or several; with Sentinel these are the Sentinels. All have the same settings.
    pub(super) servers: Vec<ConnectionInfo>,
    /// User, password and database of the store itself.
    pub(super) settings: Box<RedisConnectionInfo>,
    pub(super) is_tls: bool,
    shown: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One server, which always is the master.
    Single,
    /// Sentinels know which server is the master of the group.
    Sentinel(String),
    /// The keys are spread over a cluster's masters.
    Cluster,
}

/// More servers than these name the same store only by mistake.
const MOST_SERVERS: usize = 32;

const SENTINEL_PORT: u16 = 26379;

impl Address {
    /// Reads `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`,
    /// `redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT],…/GROUP[/DATABASE]`
    /// (`?sentinel_user=…&sentinel_password=…` for Sentinels that ask for it),
    /// `redis+cluster://[USER[:PASSWORD]@]HOST[:PORT],…`, each with `rediss` for TLS, or
    /// `redis+unix:///PATH`.
    ///
    /// # Errors
    /// [`InvalidAddress`], which does not hold the address: it may contain a password.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let (scheme, rest) = text.split_once(':').ok_or(InvalidAddress::Address)?;
        let (base, kind) = scheme.split_once('+').unwrap_or((scheme, "single"));
        let is_tls = base == "rediss";
        if !is_tls && base != "redis" {
            return Err(InvalidAddress::Scheme);
        }
        match kind {
            "unix" if !is_tls => socket(text, rest),
            "single" | "sentinel" | "cluster" => Parts::split(rest)?.read(scheme, kind, is_tls),
            _ => Err(InvalidAddress::Scheme),
        }
    }

    /// The address without user, password and options, for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

fn socket(text: &str, rest: &str) -> Result<Address, InvalidAddress> {
    let path = rest.strip_prefix("//").filter(|path| path.starts_with('/'));
    let path = path
        .and_then(|path| path.split('?').next())
        .ok_or(InvalidAddress::Socket)?;
    let server = connection(text)?;
    Ok(Address {
        kind: Kind::Single,
        settings: Box::new(server.redis_settings().clone()),
        servers: vec![server],
        is_tls: false,
        shown: format!("redis+unix://{path}"),
    })
}

/// `//[user@]hosts[/path][?options]`
struct Parts<'a> {
    /// With its `@`.
    user: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    options: &'a str,
}

impl<'a> Parts<'a> {
    fn split(rest: &'a str) -> Result<Self, InvalidAddress> {
        let rest = rest.strip_prefix("//").ok_or(InvalidAddress::Host)?;
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('#') || options.contains('#') {
            return Err(InvalidAddress::Choice);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts_from = authority.rfind('@').map_or(0, |at| at + 1);
        let (user, hosts) = authority.split_at(hosts_from);
        let hosts: Vec<_> = hosts.split(',').collect();
        if hosts.iter().any(|host| host.is_empty()) || hosts.len() > MOST_SERVERS {
            return Err(InvalidAddress::Host);
        }
        Ok(Self {
            user,
            hosts,
            path: path.trim_end_matches('/'),
            options,
        })
    }

    fn read(self, scheme: &str, kind: &str, is_tls: bool) -> Result<Address, InvalidAddress> {
        let shown_path = if self.path.is_empty() {
            String::new()
        } else {
            format!("/{}", self.path)
        };
        let shown = format!("{scheme}://{}{shown_path}", self.hosts.join(","));
        let base = if is_tls { "rediss" } else { "redis" };
        let (kind, user, database) = match kind {
            "single" if self.hosts.len() > 1 => return Err(InvalidAddress::Several),
            "single" => (Kind::Single, self.user.to_owned(), self.path),
            "cluster" if !matches!(self.path, "" | "0") => return Err(InvalidAddress::Database),
            "cluster" => (Kind::Cluster, self.user.to_owned(), ""),
            _ => {
                let (group, database) = self.path.split_once('/').unwrap_or((self.path, ""));
                // A password with a `/` that is not encoded would be taken for the group.
                if group.is_empty() || self.path.contains('@') {
                    return Err(InvalidAddress::Group);
                }
                (Kind::Sentinel(group.to_owned()), self.sentinel_user()?, database)
            }
        };
        let is_sentinel = matches!(kind, Kind::Sentinel(_));
        let server = |host: &&str| {
            let host = if is_sentinel {
                with_port(host)?
            } else {
                (*host).to_owned()
            };
            connection(&format!("{base}://{user}{host}"))
        };
        let servers = self.hosts.iter().map(server).collect::<Result<Vec<_>, _>>()?;
        // The first host stands in for the master that the Sentinels will name.
        let store = connection(&format!("{base}://{}{}/{database}", self.user, self.hosts[0]))?;
        let settings = store.redis_settings().clone();
        let with_database = |server: ConnectionInfo| match kind {
            Kind::Single => server.set_redis_settings(settings.clone()),
            _ => server,
        };
        Ok(Address {
            servers: servers.into_iter().map(with_database).collect(),
            kind,
            settings: Box::new(settings),
            is_tls,
            shown,
        })
    }

    /// As whom to sign in to the Sentinels, which have users of their own.
    fn sentinel_user(&self) -> Result<String, InvalidAddress> {
        let mut url = Url::parse("redis://h").map_err(|_| InvalidAddress::Address)?;
        for (name, value) in url::form_urlencoded::parse(self.options.as_bytes()) {
            match &*name {
                "sentinel_user" => url.set_username(&value),
                "sentinel_password" => url.set_password(Some(&value)),
                _ => return Err(InvalidAddress::Choice),
            }
            .map_err(|()| InvalidAddress::Choice)?;
        }
        let text = url.as_str().trim_start_matches("redis://");
        Ok(text[..text.rfind('@').map_or(0, |at| at + 1)].to_owned())
    }
}

fn with_port(host: &str) -> Result<String, InvalidAddress> {
    let url = Url::parse(&format!("redis://{host}")).map_err(|error| InvalidAddress::Server(error.to_string()))?;
    Ok(match url.port() {
        Some(_) => host.to_owned(),
        None => format!("{}:{SENTINEL_PORT}", host.trim_end_matches(':')),
    })
}

fn connection(url: &str) -> Result<ConnectionInfo, InvalidAddress> {
    // The error's own text could hold the address; its category does not.
    url.into_connection_info().map_err(|error| match Url::parse(url) {
        Ok(_) => InvalidAddress::Server(error.category().to_owned()),
        Err(error) => InvalidAddress::Server(error.to_string()),
    })
}

/// How many times the configured timeout a slow store may take in the end.
pub(super) const MOST_PATIENT: u32 = 4;

/// Where the store is, and how to be let in. Files are read at every connection, so that what they
/// hold may change.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is.
    pub address: Address,
    /// The longest wait for one answer.
    pub timeout: Duration,
    /// Holds the password, instead of the address.
    pub password_file: Option<PathBuf>,
    /// PEM: the only authorities to trust, instead of Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// PEM: certificate and private key to show to a store that asks for them.
    pub certificate_file: Option<PathBuf>,
}

impl Config {
    /// A store that answers within `timeout` and needs no files.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self {
            address,
            timeout,
            password_file: None,
            ca_file: None,
            certificate_file: None,
        }
    }
}

/// What the names of all keys of one application begin with, as `prefix:tenant:application`. Case
/// does not matter in the names of the two, and nothing in them looks like another part of a key.
pub fn scope(prefix: &str, tenant: &str, application: &str) -> String {
    let plain = |name: &str| -> String {
        let allowed = |c: char| {
            if c.is_ascii_alphanumeric() || "._-".contains(c) {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        };
        name.chars().map(allowed).collect()
    };
    format!("{prefix}:{}:{}", plain(tenant), plain(application))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(address: &Address) -> Vec<String> {
        address.servers.iter().map(|server| server.addr().to_string()).collect()
    }

    #[test]
    fn every_way_to_a_store_is_understood() {
        let address = Address::parse("rediss://u:p%40@h:1/2").unwrap();
        assert_eq!((&address.kind, ports(&address)), (&Kind::Single, vec!["h:1".into()]));
        assert_eq!(address.settings.password(), Some("p@"));
        assert_eq!(address.servers[0].redis_settings().db(), 2);
        assert!(address.is_tls);

        let address = Address::parse("redis+sentinel://u:p@a,b:7,[::1]/main/3?sentinel_password=s%26").unwrap();
        assert_eq!(address.kind, Kind::Sentinel("main".into()));
        assert_eq!(ports(&address), ["a:26379", "b:7", "::1:26379"]);
        assert_eq!((address.settings.username(), address.settings.db()), (Some("u"), 3));
        let sentinel = address.servers[1].redis_settings();
        assert_eq!((sentinel.username(), sentinel.password()), (None, Some("s&")));
        assert_eq!(address.shown(), "redis+sentinel://a,b:7,[::1]/main/3");

        let address = Address::parse("rediss+cluster://u:p@a:1,b:2/").unwrap();
        assert_eq!(
            (&address.kind, ports(&address)),
            (&Kind::Cluster, vec!["a:1".into(), "b:2".into()])
        );
        assert_eq!(address.servers[1].redis_settings().username(), Some("u"));

        let address = Address::parse("redis+unix:///run/redis.sock").unwrap();
        assert_eq!(address.shown(), "redis+unix:///run/redis.sock");
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_never_shown() {
        for (url, problem) in [
            ("hunter2", InvalidAddress::Address),
            ("http://:hunter2@h", InvalidAddress::Scheme),
            ("rediss+unix:///hunter2", InvalidAddress::Scheme),
            ("redis:hunter2", InvalidAddress::Host),
            ("redis://", InvalidAddress::Host),
            ("redis+unix://h/hunter2", InvalidAddress::Socket),
            ("redis://a,b", InvalidAddress::Several),
            ("redis+sentinel://:hunter2@h", InvalidAddress::Group),
            ("redis+sentinel://me:12/hunter2@h:1", InvalidAddress::Group),
            ("redis+cluster://:hunter2@h/1", InvalidAddress::Database),
            ("redis+sentinel://h/g?password=hunter2", InvalidAddress::Choice),
            ("rediss://h#insecure", InvalidAddress::Choice),
        ] {
            assert_eq!(Address::parse(url).unwrap_err(), problem, "{url}");
        }
        for url in ["redis://:hunter2@h/hunter2", "redis+sentinel://:hunter2@h:hunter2/g"] {
            let error = Address::parse(url).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        let address = Address::parse("redis+sentinel://:hunter2@h/g?sentinel_password=hunter2").unwrap();
        assert!(!format!("{address:?}").contains("hunter2"));
    }
}
