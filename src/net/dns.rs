//! Resolves names with the system's resolver, and with its last good answer when it fails.
//!
//! Nothing is cached while the resolver works: it is asked for every new connection, so that it can
//! apply the TTLs.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Looks up the addresses of a host and port.
pub type Lookup = Arc<dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// How long a resolver that has worked before may take, before its last good answer is used
/// instead.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an answer is used while the resolver fails. RFC 8767 §5 suggests one to three days.
const FALLBACK_AGE: Duration = Duration::from_hours(24);

/// How long an address whose connection failed is tried after all others.
const AVOIDED_FOR: Duration = Duration::from_mins(1);

/// The most remembered hosts; a gateway talks to a dozen.
const MAX_HOSTS: usize = 64;

/// The most addresses of a host that are remembered to have failed.
const MAX_FAILED: usize = 16;

/// The most system lookups at a time: each occupies a thread, and a broken resolver blocks it for
/// half a minute.
const MAX_LOOKUPS: usize = 16;

/// Resolves names. Clones share what is remembered.
#[derive(Clone)]
pub struct Resolver {
    lookup: Lookup,
    known: Arc<Mutex<HashMap<(String, u16), Known>>>,
}

#[derive(Clone)]
struct Known {
    addresses: Vec<SocketAddr>,
    at: Instant,
    worked: Option<SocketAddr>,
    /// The addresses that have failed, and when; the latest last.
    failed: Vec<(SocketAddr, Instant)>,
    /// The resolver has failed since, which has been logged.
    failing: bool,
}

impl Resolver {
    /// The operating system's resolver (`getaddrinfo`), with the hosts file and the search list.
    pub fn system() -> Self {
        let slots = Arc::new(Semaphore::new(MAX_LOOKUPS));
        Self::with(Arc::new(move |host, port| {
            let slots = Arc::clone(&slots);
            Box::pin(async move {
                let slot = slots.acquire_owned().await.map_err(io::Error::other)?;
                // The permit moves into the task: a lookup whose caller has given up still occupies
                // its thread.
                tokio::task::spawn_blocking(move || {
                    let _slot = slot;
                    (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
                })
                .await
                .map_err(io::Error::other)?
            })
        }))
    }

    /// A resolver with another lookup, for tests.
    pub fn with(lookup: Lookup) -> Self {
        Self {
            lookup,
            known: Arc::default(),
        }
    }

    /// The addresses of `host` (a name, or an IP literal with or without brackets), never empty,
    /// beginning with the one that worked last and ending with those that failed a moment ago.
    ///
    /// When the resolver fails, or hangs although it has answered before, its last good answer is
    /// used for up to 24 hours.
    ///
    /// # Errors
    ///
    /// The resolver's error when nothing is remembered.
    ///
    /// # Cancel safety
    ///
    /// Safe; a system lookup that has started ends on its own thread.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = literal.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let key = (host.to_ascii_lowercase(), port);
        let known = self.recall(&key);
        let lookup = (self.lookup)(key.0.clone(), port);
        let answer = match &known {
            Some(_) => tokio::time::timeout(LOOKUP_TIMEOUT, lookup)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
            None => lookup.await,
        };
        let answer = answer.and_then(|addresses| {
            if addresses.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Ok(addresses)
        });
        match (answer, known) {
            (Ok(addresses), _) => Ok(self.remember(key, addresses)),
            (Err(error), Some(known)) => {
                if self.record_failure(&key) {
                    tracing::warn!(host, %error, "name resolution fails; using the last good answer");
                }
                Ok(known.in_order())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Records that a connection to `address` was set up, so that it is tried first while it is
    /// among the host's addresses.
    pub(super) fn record_success(&self, host: &str, port: u16, address: SocketAddr) {
        self.change(host, port, |known| {
            known.worked = Some(address);
            known.failed.retain(|(failed, _)| *failed != address);
        });
    }

    /// Records that `address` took a connection and then failed. Such an address accepts faster
    /// than any that works, so it goes last for a while.
    pub(super) fn record_failed_address(&self, host: &str, port: u16, address: SocketAddr) {
        self.change(host, port, |known| {
            known.worked.take_if(|worked| *worked == address);
            known.failed.retain(|(failed, _)| *failed != address);
            if known.failed.len() == MAX_FAILED {
                known.failed.remove(0);
            }
            known.failed.push((address, Instant::now()));
        });
    }

    fn change(&self, host: &str, port: u16, change: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(&(host.to_ascii_lowercase(), port)) {
            change(known);
        }
    }

    /// Records that the resolver failed. `true` the first time after it worked, so that an outage
    /// is logged once and not for every connection.
    fn record_failure(&self, key: &(String, u16)) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get_mut(key)
            .is_some_and(|known| !std::mem::replace(&mut known.failing, true))
    }

    fn recall(&self, key: &(String, u16)) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .get(key)
            .filter(|known| known.at.elapsed() < FALLBACK_AGE)
            .cloned()
    }

    /// Keeps the resolver's answer, and returns it in the order in which it is tried.
    fn remember(&self, key: (String, u16), addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_HOSTS && !known.contains_key(&key) {
            let oldest = known
                .iter()
                .min_by_key(|(_, known)| known.at)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                known.remove(&oldest);
            }
        }
        // What is known of the addresses stays, also what was learnt during the lookup.
        let host = key.0.clone();
        let entry = known.entry(key).or_insert_with(Known::nothing);
        (entry.addresses, entry.at) = (addresses, Instant::now());
        if std::mem::take(&mut entry.failing) {
            tracing::info!(host, "name resolution works again");
        }
        entry.in_order()
    }
}

impl Known {
    fn nothing() -> Self {
        Self {
            addresses: Vec::new(),
            at: Instant::now(),
            worked: None,
            failed: Vec::new(),
            failing: false,
        }
    }

    /// The addresses in the order in which they are tried: the one that worked last, those that
    /// nothing is known about in the resolver's order and with alternating families (RFC 8305), and
    /// those that failed a moment ago, the latest last.
    fn in_order(&self) -> Vec<SocketAddr> {
        let failed = |address: &SocketAddr| {
            let recent = |(_, at): &(SocketAddr, Instant)| at.elapsed() < AVOIDED_FOR;
            let mut failed = self.failed.iter().filter(|entry| recent(entry));
            failed.position(|(failed, _)| failed == address)
        };
        let mut addresses = self.addresses.clone();
        // The sort is stable, and nothing comes before something.
        addresses.sort_by_key(|address| (failed(address), self.worked != Some(*address)));
        let first_failed = addresses.partition_point(|address| failed(address).is_none());
        let failed = addresses.split_off(first_failed);
        [alternating(addresses), failed].concat()
    }
}

/// The addresses with alternating families, starting with the first one's; within a family the
/// resolver's order is kept.
fn alternating(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else {
        return addresses;
    };
    let v6_first = first.is_ipv6();
    let count = addresses.len();
    let (leading, other): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == v6_first);
    let (mut leading, mut other) = (leading.into_iter(), other.into_iter());
    let mut order = Vec::with_capacity(count);
    while order.len() < count {
        order.extend(leading.next());
        order.extend(other.next());
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 443))
    }

    /// A resolver with the answers of `script`, one after the other, which hangs afterwards.
    fn scripted(script: Vec<io::Result<Vec<SocketAddr>>>) -> Resolver {
        let script = Arc::new(Mutex::new(script.into_iter()));
        Resolver::with(Arc::new(move |_, _| {
            let next = script.lock().unwrap().next();
            Box::pin(async move {
                match next {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            })
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_or_hanging_resolver_is_survived_with_the_last_good_answer_for_a_day() {
        let resolver = scripted(vec![
            Ok(vec![address(1)]),
            Err(io::ErrorKind::NotFound.into()),
            Ok(vec![]),
        ]);
        for what in ["good", "failing", "empty", "hanging"] {
            let before = Instant::now();
            assert_eq!(resolver.resolve("eu.test", 443).await.unwrap(), [address(1)], "{what}");
            assert!(before.elapsed() <= LOOKUP_TIMEOUT, "{what}");
        }
        tokio::time::advance(FALLBACK_AGE).await;
        let hung = tokio::time::timeout(Duration::from_mins(1), resolver.resolve("eu.test", 443)).await;
        assert!(hung.is_err(), "an answer of yesterday is not used");
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_with_nothing_remembered_is_an_error() {
        let resolver = scripted(vec![Err(io::ErrorKind::NotFound.into())]);
        assert_eq!(
            resolver.resolve("eu.test", 443).await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_followed_and_the_address_that_worked_goes_first() {
        let resolver = scripted(vec![
            Ok(vec![address(1), address(2), address(3)]),
            Ok(vec![address(1), address(2), address(3)]),
            Ok(vec![address(4), address(5)]),
        ]);
        resolver.resolve("EU.test", 443).await.unwrap();
        resolver.record_success("eu.test", 443, address(3));
        let second = resolver.resolve("eu.test", 443).await.unwrap();
        assert_eq!(second, [address(3), address(1), address(2)]);
        assert_eq!(
            resolver.resolve("eu.test", 443).await.unwrap(),
            [address(4), address(5)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_failed_goes_last_for_a_minute_and_the_latest_of_them_last_of_all() {
        let all = [address(1), address(2), address(3)];
        let resolver = Resolver::with(Arc::new(move |_, _| Box::pin(async move { Ok(all.to_vec()) })));
        let order = async || resolver.resolve("eu.test", 443).await.unwrap();
        order().await;
        resolver.record_success("eu.test", 443, address(1));
        resolver.record_failed_address("EU.test", 443, address(1));
        assert_eq!(order().await, [address(2), address(3), address(1)]);
        tokio::time::advance(AVOIDED_FOR / 2).await;
        resolver.record_failed_address("eu.test", 443, address(2));
        assert_eq!(order().await, [address(3), address(1), address(2)]);
        tokio::time::advance(AVOIDED_FOR / 2).await;
        assert_eq!(order().await, [address(1), address(3), address(2)]);
        resolver.record_success("eu.test", 443, address(2));
        assert_eq!(order().await, [address(2), address(1), address(3)]);
        for last in 0..=u8::MAX {
            resolver.record_failed_address("eu.test", 443, address(last));
        }
        let known = resolver.known.lock().unwrap();
        assert_eq!(known[&("eu.test".to_owned(), 443)].failed.len(), MAX_FAILED);
    }

    #[test]
    fn families_alternate_and_keep_the_resolvers_order() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let given = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1", "127.0.0.2:1"].map(parse);
        let wanted = ["[::1]:1", "127.0.0.1:1", "[::2]:1", "127.0.0.2:1", "[::3]:1"].map(parse);
        assert_eq!(alternating(given.to_vec()), wanted);
    }

    #[tokio::test]
    async fn an_address_that_failed_goes_last_whatever_its_family() {
        let failed: SocketAddr = "[2001:db8::1]:443".parse().unwrap();
        let all = [address(1), failed, address(2)];
        let resolver = Resolver::with(Arc::new(move |_, _| Box::pin(async move { Ok(all.to_vec()) })));
        assert_eq!(resolver.resolve("eu.test", 443).await.unwrap(), all);
        resolver.record_success("eu.test", 443, address(1));
        resolver.record_failed_address("eu.test", 443, failed);
        let order = resolver.resolve("eu.test", 443).await.unwrap();
        assert_eq!(order, [address(1), address(2), failed]);
    }

    #[tokio::test]
    async fn literals_need_no_resolver_and_memory_is_bounded() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let resolver = Resolver::with(Arc::new(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(vec![address(1)]) })
        }));
        assert_eq!(
            resolver.resolve("[::1]", 80).await.unwrap(),
            ["[::1]:80".parse().unwrap()]
        );
        assert_eq!(
            resolver.resolve("127.0.0.1", 80).await.unwrap(),
            ["127.0.0.1:80".parse().unwrap()]
        );
        assert_eq!(asked.load(Ordering::Relaxed), 0);
        for n in 0..3 * MAX_HOSTS {
            resolver.resolve(&format!("host{n}.test"), 443).await.unwrap();
        }
        assert_eq!(resolver.known.lock().unwrap().len(), MAX_HOSTS);
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let addresses = Resolver::system().resolve("localhost", 80).await.unwrap();
        assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    }
}
