//! The entries of the cache, and what may be stored.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use foldhash::quality::RandomState;
use http::StatusCode;
use moka::ops::compute::{CompResult, Op};
use tokio::time::Instant;

use crate::cache::entity::EntityForm;
use crate::cache::entry::Entry;
use crate::cache::fragment::{Assembled, Fragment};
use crate::cache::lifetime::rejects_gateway;
use crate::cache::metrics::{Lookup, Snapshot};
use crate::cache::popularity::Popularity;
use crate::cache::suspends::Suspends;
use crate::cache::{Config, Metrics};
use crate::memory::{MemoryBudget, Reservation};
use crate::scan::{CacheSink, Endpoint, Key, Request, ResponseKind, StoredRows, UpstreamProfile, UpstreamResponse};

/// Bodies up to this size are not counted after they leave the cache.
pub(super) const SMALL: usize = 4 * 1024;

/// moka bounds the memory of both kinds of entries together.
pub(super) type Entries = moka::sync::Cache<Key, Stored, RandomState>;

/// The value of a key, shared so that a lookup copies only a pointer.
#[derive(Clone)]
pub(super) enum Stored {
    /// Under the key of a request: its answer.
    Answer(Arc<Entry>),
    /// Under the key of an id: its rows.
    Fragment(Arc<Fragment>),
}

impl Stored {
    /// When the call left that brought it.
    fn asked(&self) -> Instant {
        match self {
            Self::Answer(entry) => entry.asked,
            Self::Fragment(fragment) => fragment.origin().asked,
        }
    }

    fn weight(&self, key: &Key) -> u32 {
        match self {
            Self::Answer(entry) => entry.weight,
            Self::Fragment(fragment) => fragment.weight(key),
        }
    }
}

/// Answers by request, and rows by id.
pub struct Cache {
    pub(super) config: Config,
    entries: Entries,
    suspends: Suspends,
    /// What has been learned about answers, if rows are stored by id.
    pub(super) upstream_profile: Option<Arc<UpstreamProfile>>,
    pub(super) metrics: Metrics,
    pub(super) popularity: Arc<Popularity>,
    /// Bytes inserted since moka last evicted entries.
    unflushed_bytes: AtomicU64,
    /// Bodies of entries and rows of ids, and former ones that callers are still reading or that
    /// requests which wait for other rows will be answered with.
    held: Arc<MemoryBudget>,
    /// By endpoint: in which form the upstream last answered a request for one entity.
    pub(super) forms: Arc<[Mutex<Option<EntityForm>>; Endpoint::COUNT]>,
}

impl Cache {
    /// An empty cache. With `upstream_profile`, which must learn from all calls, it also stores
    /// rows by id.
    pub fn new(config: Config, upstream_profile: Option<Arc<UpstreamProfile>>, metrics: Metrics) -> Self {
        let entries = entries(&config);
        metrics.watch(&entries);
        Self {
            held: MemoryBudget::new(config.max_held),
            config,
            entries,
            upstream_profile,
            metrics,
            popularity: Arc::default(),
            suspends: Suspends::new(),
            unflushed_bytes: AtomicU64::new(0),
            forms: Arc::default(),
        }
    }

    /// This cache with other settings. Stored entries stay as fresh as they were; the times past
    /// their freshness are those of the new settings.
    pub fn reconfigured(&self, config: Config, upstream_profile: Option<Arc<UpstreamProfile>>) -> Self {
        let has_room = config.max_size == self.config.max_size && config.kept() == self.config.kept();
        let entries = if has_room {
            self.entries.clone()
        } else {
            // moka's bounds are fixed, so a new store is filled. What is inserted into the old one
            // from now on is not seen here, which turns a hit into a miss.
            let new = entries(&config);
            for (key, stored) in &self.entries {
                new.insert(Key::clone(&key), stored);
            }
            new
        };
        self.metrics.watch(&entries);
        Self {
            config,
            entries,
            upstream_profile,
            metrics: self.metrics.clone(),
            popularity: Arc::clone(&self.popularity),
            suspends: self.suspends.clone(),
            unflushed_bytes: AtomicU64::new(0),
            held: Arc::clone(&self.held),
            forms: Arc::clone(&self.forms),
        }
    }

    /// An empty cache that replaces this one.
    pub fn emptied(&self, config: Config, upstream_profile: Option<Arc<UpstreamProfile>>) -> Self {
        Self::new(config, upstream_profile, self.metrics.clone())
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The state for `/status`.
    pub fn snapshot(&self) -> Snapshot {
        self.metrics.snapshot(&self.entries)
    }

    pub(super) fn is_off(&self) -> bool {
        self.config.ttl.is_zero()
    }

    pub(super) fn count(&self, lookup: Lookup) {
        self.metrics.count(lookup);
    }

    /// An answer that was stored before the machine was suspended is older than its time of storage
    /// says: all that are stored are forgotten after that.
    pub(super) fn forget_if_suspended(&self) {
        self.suspends.look(|| self.entries.invalidate_all());
    }

    /// The entry of a key, unless it is too old for any request.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        let entry = self.entry(key)?;
        let age = entry.age(now);
        let limit = if entry.is_negative() {
            Duration::ZERO
        } else {
            self.config.longest_staleness()
        };
        (age.remaining().is_some() || !limit.is_zero() && age.staleness() <= limit).then_some(entry)
    }

    /// The rows of one id.
    pub(super) fn fragment(&self, endpoint: Endpoint, id: &str) -> Option<Arc<Fragment>> {
        match self.entries.get(&Key::of_rows(endpoint, id))? {
            Stored::Fragment(fragment) => Some(fragment),
            Stored::Answer(_) => None,
        }
    }

    /// Inserts an answer that another replica fetched at these times and that is fresh for this
    /// long from then on. An answer that was fetched later stays.
    pub fn insert_remote(
        &self,
        request: &Request,
        answer: &UpstreamResponse,
        (asked, stored): (Instant, Instant),
        ttl: Duration,
    ) {
        let key = request.key();
        if self.is_off() || self.entry(key).is_some_and(|entry| entry.asked >= asked) {
            return;
        }
        if answer.may_hold_secrets(request.endpoint()) {
            return;
        }
        self.learn_form(request, answer);
        let rows = self.rows(request, answer);
        // The replica that wrote it may have other settings.
        let lifetimes = self.lifetimes(request, rows.as_ref()).map(|own| own.min(ttl));
        let ttl = lifetimes.whole;
        if let (Some(upstream_profile), Some(rows)) = (&self.upstream_profile, &rows) {
            // This process has not learned from it yet. Otherwise a replica that mostly follows
            // others could not join any fragments.
            upstream_profile.learn(request, rows);
        }
        self.insert_fragments(request, answer, rows.as_ref(), (asked, stored), &lifetimes.ids, None);
        self.insert_copy(key, answer, (asked, stored), ttl);
    }

    /// Stores an answer that was joined from fragments, as if it had come when its oldest fragment
    /// did. Its readers take it from the returned entry, whose memory is reserved; `None` when it
    /// could not be stored.
    pub(super) fn insert_assembled(&self, request: &Request, assembly: &Assembled) -> Option<Arc<Entry>> {
        let Assembled {
            answer,
            asked,
            stored,
            ttl,
        } = assembly;
        let key = request.key();
        self.insert(key, Entry::at(key, answer, (*asked, *stored), *ttl))
    }

    fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        match self.entries.get(key)? {
            Stored::Answer(entry) => Some(entry),
            Stored::Fragment(_) => None,
        }
    }

    /// Stores an answer, as [`Cache::insert`] does, with a body of its own: a slice of a read
    /// buffer would keep the whole buffer alive, and a body with a reservation the memory that its
    /// readers need. The cache's bound sees neither.
    fn insert_copy(
        &self,
        key: &Key,
        answer: &UpstreamResponse,
        (asked, stored): (Instant, Instant),
        ttl: Duration,
    ) -> bool {
        let own = UpstreamResponse {
            body: Bytes::copy_from_slice(&answer.body),
            ..answer.clone()
        };
        self.insert(key, Entry::at(key, &own, (asked, stored), ttl)).is_some()
    }

    /// `None` when the entry is too large, callers are still reading too much of former entries, or
    /// there is a later answer.
    fn insert(&self, key: &Key, entry: Entry) -> Option<Arc<Entry>> {
        let asked = entry.asked;
        let fits = u64::from(entry.weight) <= self.config.max_size;
        let entry = Some(entry).filter(|_| fits).and_then(|entry| self.held(entry));
        let entry = entry.map(Arc::new);
        let is_stored = self.replace(key.clone(), asked, entry.clone().map(Stored::Answer));
        entry.filter(|_| is_stored)
    }

    /// Stores the rows of an id, unless they are too large, or callers hold too much of former ones.
    pub(super) fn insert_fragment(&self, key: Key, fragment: Fragment) {
        let weight = fragment.weight(&key);
        // All of them are counted: a request that waits may hold thousands of small ones.
        let memory = Some(weight).filter(|weight| u64::from(*weight) <= self.config.max_size);
        let memory = memory.and_then(|weight| self.reserve(weight as usize));
        let asked = fragment.origin().asked;
        let stored = memory.map(|memory| Stored::Fragment(Arc::new(fragment.with_memory(memory))));
        self.replace(key, asked, stored);
    }

    /// Reserves memory for the body of an entry, which callers may hold for longer than the cache
    /// does; `None` when there is none left. Small bodies are not counted: they are too many, and
    /// too small to matter.
    fn held(&self, entry: Entry) -> Option<Entry> {
        match entry.answer.body.len() {
            ..SMALL => Some(entry),
            bytes => self.reserve(bytes).map(|memory| entry.with_memory(memory)),
        }
    }

    /// Memory for a body, or for the rows of an id. Pending evictions are run first if necessary.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Reservation> {
        self.held.try_reserve(bytes).or_else(|| {
            self.entries.run_pending_tasks();
            self.held.try_reserve(bytes)
        })
    }

    /// Puts what came with an answer that was asked for at `asked` in the place of what is stored, or
    /// only removes that; but answers of overlapping calls may come in any order, so what was asked
    /// for later stays, and what was asked for before the machine was suspended is not stored. All
    /// writes come through here, because moka compares and writes in one step only among such
    /// writes. Says whether it was stored.
    fn replace(&self, key: Key, asked: Instant, new: Option<Stored>) -> bool {
        self.forget_if_suspended();
        let new = new.filter(|_| !self.suspends.have_aged(asked));
        let weight = new.as_ref().map_or(0, |new| u64::from(new.weight(&key)));
        let done = self.entries.entry(key).and_compute_with(|old| match (old, new) {
            (Some(old), _) if old.value().asked() > asked => Op::Nop,
            (_, Some(new)) => Op::Put(new),
            (_, None) => Op::Remove,
        });
        // moka evicts some time after an insertion, so evictions are run here before too much has
        // been inserted.
        if self.unflushed_bytes.fetch_add(weight, Ordering::Relaxed) + weight > self.config.max_size / 64 {
            self.unflushed_bytes.store(0, Ordering::Relaxed);
            self.entries.run_pending_tasks();
        }
        matches!(done, CompResult::Inserted(_) | CompResult::ReplacedWith(_))
    }

    /// Removes the fragments of an answer that the upstream did not give any more at `asked`.
    fn remove_fragments(&self, request: &Request, asked: Instant) {
        if self.upstream_profile.is_some() && request.is_whole() {
            for id in request.ids() {
                self.replace(Key::of_rows(request.endpoint(), id), asked, None);
            }
        }
    }
}

/// The store, bounded by `config`.
fn entries(config: &Config) -> Entries {
    moka::sync::Cache::builder()
        .max_capacity(config.max_size)
        .weigher(|key, stored: &Stored| stored.weight(key))
        // Only to free memory: whether an entry may be served is decided from the entry.
        .time_to_live(config.kept())
        .build_with_hasher(RandomState::default())
}

impl CacheSink for Cache {
    fn keep(&self, request: &Request, answer: &UpstreamResponse, asked: Instant) -> Option<Duration> {
        if self.is_off() {
            return None;
        }
        let rows = self.rows(request, answer);
        let is_answer = match &rows {
            // Splitting it into rows has already checked its shape.
            Some(_) => answer.may_be_json(),
            None => ResponseKind::of(request.endpoint(), answer).is_answer(),
        };
        if !is_answer || rejects_gateway(request, answer) {
            // The response says nothing about the request, so it is neither stored nor does it
            // replace an answer.
            return None;
        }
        let key = request.key();
        // Two calls for one key may overlap, for example because of `no-cache`. The later call has
        // the better answer.
        if self.entry(key).is_some_and(|entry| entry.asked > asked) {
            return None;
        }
        self.learn_form(request, answer);
        let age = answer.age();
        // An answer that is older than this machine's uptime is stale in any case.
        let lifetimes = self.freshness(request, answer, rows.as_ref());
        let (Some(lifetimes), Some(stored)) = (lifetimes, Instant::now().checked_sub(age)) else {
            self.replace(key.clone(), asked, None);
            self.remove_fragments(request, asked);
            return None;
        };
        let ttl = lifetimes.whole;
        if answer.status != StatusCode::OK {
            self.remove_fragments(request, asked);
        }
        self.insert_fragments(request, answer, rows.as_ref(), (asked, stored), &lifetimes.ids, None);
        let fits = self.insert_copy(key, answer, (asked, stored), ttl);
        fits.then(|| ttl.saturating_sub(age))
    }

    fn worth_prefetching(&self, asked: &Request, most: usize, now: Instant, until: Instant) -> Vec<Box<str>> {
        if self.is_off() || !self.prefetches(asked.endpoint()) {
            return Vec::new();
        }
        self.popularity.worth_prefetching(asked, most, now, until)
    }

    fn rows_since(&self, request: &Arc<Request>, since: Instant) -> Option<Box<dyn StoredRows>> {
        self.find_rows_since(request, since)
    }

    fn keep_rows(&self, request: &Request, prefetched: Option<&Request>, answer: &UpstreamResponse, asked: Instant) {
        if self.is_off() {
            return;
        }
        let rows = self.rows(request, answer);
        let stored = Instant::now().checked_sub(answer.age());
        if let (Some(lifetimes), Some(stored)) = (self.freshness(request, answer, rows.as_ref()), stored) {
            self.insert_fragments(
                request,
                answer,
                rows.as_ref(),
                (asked, stored),
                &lifetimes.ids,
                prefetched,
            );
        }
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
