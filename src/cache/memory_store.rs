//! The entries, and what may become one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::quality::RandomState;
use http::{StatusCode, header};
use tokio::time::Instant;

use crate::cache::assembly::Assembled;
use crate::cache::entry::Entry;
use crate::cache::fragment::Fragment;
use crate::cache::freshness::{Health, Verdict, evaluate};
use crate::cache::metrics::Handling;
use crate::cache::popularity::Popularity;
use crate::cache::{Config, Metrics, Prefetch};
use crate::caller::Freshness;
use crate::memory::{MemoryBudget, Reservation};
use crate::operation::{Kept, Lifetime};
use crate::scan::{
    Answer, Endpoint, EntityForm, Fields, Keep, Key, Request, ResponseKind, Rows, Target, UpstreamProfile, finished,
};

/// What callers hold of smaller bodies is not counted.
const SMALL: usize = 4 * 1024;

/// moka bounds memory for both kinds together.
pub(super) type Entries = moka::sync::Cache<Key, Stored, RandomState>;

/// What lies under a key, shared so that a look-up copies one pointer.
#[derive(Clone)]
pub(super) enum Stored {
    /// Under the key of a question: the answer.
    Answer(Arc<Entry>),
    /// Under the key of an id: its rows.
    Fragment(Arc<Fragment>),
}

/// Answers by question, and rows by id.
pub struct Cache {
    pub(super) config: Config,
    entries: Entries,
    pub(super) upstream_profile: Option<Arc<UpstreamProfile>>,
    pub(super) metrics: Metrics,
    pub(super) popularity: Arc<Popularity>,
    /// Bytes taken in since moka was last told to make room.
    unsettled: AtomicU64,
    /// Bodies of entries, and of those that callers have yet to take although they are no entries any more.
    held: Arc<MemoryBudget>,
    /// By endpoint, whether single entities were last answered in a `value`.
    wrapped: Arc<[AtomicBool; Endpoint::COUNT]>,
}

impl Cache {
    /// An empty cache. With `upstream_profile`, which those who make the calls must teach, it also keeps rows by id.
    #[must_use]
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
            unsettled: AtomicU64::new(0),
            wrapped: Arc::default(),
        }
    }

    /// This cache with other settings. What is stored stays, as fresh as it was made; times past freshness are those of `config`.
    #[must_use]
    pub fn reconfigured(&self, config: Config, upstream_profile: Option<Arc<UpstreamProfile>>) -> Self {
        let has_room = config.max_size == self.config.max_size && config.kept() == self.config.kept();
        let entries = if has_room {
            self.entries.clone()
        } else {
            // moka's bounds are fixed. What is stored in the old one from now on is not seen here: it would have been a hit, and is a miss.
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
            unsettled: AtomicU64::new(0),
            held: Arc::clone(&self.held),
            wrapped: Arc::clone(&self.wrapped),
        }
    }

    /// An empty cache in the place of this one.
    #[must_use]
    pub fn emptied(&self, config: Config, upstream_profile: Option<Arc<UpstreamProfile>>) -> Self {
        Self::new(config, upstream_profile, self.metrics.clone())
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What `/status` shows.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.entries.run_pending_tasks();
        let counted = |handlings: &[Handling]| handlings.iter().map(|h| self.metrics.counted(*h)).sum();
        Snapshot {
            entries: self.entries.entry_count(),
            bytes: self.entries.weighted_size(),
            hits: counted(&[Handling::Hit]),
            stale: counted(&[Handling::Stale]),
            misses: counted(&[
                Handling::Miss,
                Handling::Expired,
                Handling::Request,
                Handling::Partial,
                Handling::Bypass,
                Handling::NotCached,
            ]),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.config.ttl.is_zero()
    }

    pub(super) fn count(&self, handling: Handling) {
        self.metrics.count(handling);
    }

    /// The entry for a key, unless it is too old for anybody.
    pub(super) fn find(&self, key: &Key, now: Instant) -> Option<Arc<Entry>> {
        let entry = self.entry(key)?;
        let staleness = entry.age(now).staleness();
        let limit = if entry.is_negative() {
            Duration::ZERO
        } else {
            self.config.longest_staleness()
        };
        (entry.age(now).remaining().is_some() || !limit.is_zero() && staleness <= limit).then_some(entry)
    }

    /// What has been learned about answers, if rows are kept by id.
    pub(super) fn upstream_profile(&self) -> Option<&Arc<UpstreamProfile>> {
        self.upstream_profile.as_ref()
    }

    /// The rows of one id.
    pub(super) fn fragment(&self, endpoint: Endpoint, id: &str) -> Option<Arc<Fragment>> {
        match self.entries.get(&Key::of_rows(endpoint, id))? {
            Stored::Fragment(fragment) => Some(fragment),
            Stored::Answer(_) => None,
        }
    }

    /// Takes in an answer that this process did not ask for itself: it was asked for and came at these times, and is fresh for so long from
    /// then on. One that was asked for later stays.
    pub fn insert_remote(
        &self,
        request: &Request,
        answer: &Answer,
        (asked, stored): (Instant, Instant),
        ttl: Duration,
    ) {
        let key = request.key();
        if self.is_off() || self.entry(key).is_some_and(|entry| entry.asked() >= asked) {
            return;
        }
        if answer.may_hold_secrets(request.endpoint()) {
            return;
        }
        let rows = self.rows(request, answer);
        // Its writer may be configured otherwise.
        let lifetimes = self.lifetimes(request, rows.as_ref()).at_most(ttl);
        let ttl = lifetimes.whole;
        if let (Some(upstream_profile), Some(rows)) = (self.upstream_profile(), &rows) {
            // Nobody else in this process has seen it; without lessons a replica that mostly follows could put nothing together.
            if request.asks_for_all() {
                upstream_profile.learn_all(request.endpoint(), rows);
            } else {
                upstream_profile.learn(request.endpoint(), rows);
            }
        }
        self.keep_pieces(request, answer, rows.as_ref(), (asked, stored), &lifetimes.ids, None);
        self.insert(key, Entry::at(key, answer, (asked, stored), ttl));
    }

    /// Keeps an answer that was put together, as if it had come when its oldest piece did.
    pub(super) fn keep_assembled(&self, request: &Request, assembly: &Assembled) {
        let Assembled {
            answer,
            asked,
            stored,
            ttl,
        } = assembly;
        let key = request.key();
        self.insert(key, Entry::at(key, answer, (*asked, *stored), *ttl));
    }

    fn entry(&self, key: &Key) -> Option<Arc<Entry>> {
        match self.entries.get(key)? {
            Stored::Answer(entry) => Some(entry),
            Stored::Fragment(_) => None,
        }
    }

    /// `false` when the entry alone is too big, or callers hold too much of what were entries.
    fn insert(&self, key: &Key, entry: Entry) -> bool {
        let weight = entry.weight();
        let entry = Some(entry).filter(|_| u64::from(weight) <= self.config.max_size);
        let Some(entry) = entry.and_then(|entry| self.held(entry)) else {
            self.entries.invalidate(key);
            return false;
        };
        self.put(key.clone(), Stored::Answer(Arc::new(entry)), weight);
        true
    }

    /// The entry with the memory of its body, which callers may hold for longer than the cache does; `None` when there is none left. Small
    /// ones are too many for that, and too small to matter.
    fn held(&self, entry: Entry) -> Option<Entry> {
        match entry.answer().body.len() {
            ..SMALL => Some(entry),
            bytes => self.reserve(bytes).map(|memory| entry.with_memory(memory)),
        }
    }

    /// Memory for a body. What moka has yet to let go of is let go of first.
    fn reserve(&self, bytes: usize) -> Option<Reservation> {
        self.held.try_reserve(bytes).or_else(|| {
            self.entries.run_pending_tasks();
            self.held.try_reserve(bytes)
        })
    }

    /// moka makes room some time after it took in; before too much has come in, it is told to do it at once.
    pub(super) fn put(&self, key: Key, stored: Stored, weight: u32) {
        self.entries.insert(key, stored);
        let weight = u64::from(weight);
        if self.unsettled.fetch_add(weight, Ordering::Relaxed) + weight > self.config.max_size / 64 {
            self.unsettled.store(0, Ordering::Relaxed);
            self.entries.run_pending_tasks();
        }
    }

    /// Forgets an answer that the upstream would not give any more, and what was cut from it.
    fn forget(&self, request: &Request) {
        self.entries.invalidate(request.key());
        if self.upstream_profile.is_some() && request.is_whole() {
            for id in request.ids() {
                self.entries.invalidate(&Key::of_rows(request.endpoint(), id));
            }
        }
    }

    /// For how long an answer is fresh; `None` when it must not be stored.
    pub(super) fn freshness(&self, request: &Request, answer: &Answer, rows: Option<&Rows>) -> Option<Lifetimes> {
        let longest = match answer.status {
            StatusCode::OK => Duration::MAX,
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Config::NEGATIVE_TTL,
            _ => return None,
        };
        if forbids_storing(&answer.headers) || answer.may_hold_secrets(request.endpoint()) {
            return None;
        }
        let factor = match self.config.prefetch {
            Prefetch::Off => 1.0 - rand::random::<f64>() / 10.0,
            // What is renewed together is renewed in one call.
            Prefetch::On => 1.0,
        };
        Some(self.lifetimes(request, rows).at_most(longest).times(factor))
    }

    /// For how long an answer with these rows is fresh, and for how long what it says about each id.
    pub(super) fn lifetimes(&self, request: &Request, rows: Option<&Rows>) -> Lifetimes {
        let Config { ttl, finished_ttl, .. } = self.config;
        let can_finish = request.endpoint().operation.declaration().lifetime == Lifetime::Finished;
        let ids: Vec<_> = match rows {
            Some(rows) if can_finish => {
                let finished = finished(request, rows).into_iter();
                finished
                    .map(|finished| if finished { finished_ttl } else { ttl })
                    .collect()
            }
            _ => vec![ttl; request.ids().len()],
        };
        Lifetimes {
            whole: ids.iter().min().copied().unwrap_or(ttl),
            ids,
        }
    }

    /// The answer to a question for one entity, out of a fresh list that holds it, and the list's entry.
    pub(super) fn entity_in_list(
        &self,
        request: &Request,
        wanted: &Freshness,
        now: Instant,
    ) -> Option<(Answer, Arc<Entry>)> {
        let Kept::InList(list) = request.endpoint().operation.declaration().kept else {
            return None;
        };
        if !request.is_bare() {
            return None;
        }
        let endpoint = Endpoint {
            operation: list,
            ..request.endpoint()
        };
        let list = Request::get(&Target { endpoint, id: None }, None).ok()?;
        let entry = self.find(list.key(), now).filter(|entry| !entry.is_negative())?;
        if evaluate(&self.config, wanted, entry.age(now), Health::Good) != Verdict::Fresh {
            return None;
        }
        let form = self.form(request.endpoint()).load(Ordering::Relaxed);
        let form = if form { EntityForm::Wrapped } else { EntityForm::Bare };
        let body = form.entity_in(request, &entry.answer().body)?;
        let answer = Answer {
            body,
            ..entry.answer().clone()
        };
        Some((answer, entry))
    }

    /// Learns from the upstream's own answer how it answers questions for one entity.
    fn learn_form(&self, request: &Request, answer: &Answer) {
        let declared = request.endpoint().operation.declaration();
        if answer.status == StatusCode::OK && matches!(declared.kept, Kept::InList(_)) {
            let is_wrapped = EntityForm::of(&answer.body) == EntityForm::Wrapped;
            self.form(request.endpoint()).store(is_wrapped, Ordering::Relaxed);
        }
    }

    fn form(&self, endpoint: Endpoint) -> &AtomicBool {
        &self.wrapped[endpoint.index()]
    }
}

/// For how long an answer is fresh.
#[derive(Debug)]
pub(super) struct Lifetimes {
    /// As a whole: until the first of its parts is stale.
    pub(super) whole: Duration,
    /// By id.
    pub(super) ids: Vec<Duration>,
}

impl Lifetimes {
    fn at_most(self, longest: Duration) -> Self {
        Self {
            whole: self.whole.min(longest),
            ids: self.ids.into_iter().map(|ttl| ttl.min(longest)).collect(),
        }
    }

    fn times(self, factor: f64) -> Self {
        Self {
            whole: self.whole.mul_f64(factor),
            ids: self.ids.into_iter().map(|ttl| ttl.mul_f64(factor)).collect(),
        }
    }
}

/// Memory for entries, bounded as `config` says.
fn entries(config: &Config) -> Entries {
    moka::sync::Cache::builder()
        .max_capacity(config.max_size)
        .weigher(|key, stored: &Stored| match stored {
            Stored::Answer(entry) => entry.weight(),
            Stored::Fragment(fragment) => fragment.weight(key),
        })
        // Only to give memory back: whether an entry may be served is decided on the entry.
        .time_to_live(config.kept())
        .build_with_hasher(RandomState::default())
}

impl Keep for Cache {
    fn keep(&self, request: &Request, answer: &Answer, asked: Instant) -> Option<Duration> {
        if self.is_off() {
            return None;
        }
        let rows = self.rows(request, answer);
        let is_answer = match &rows {
            // Its shape has been seen already.
            Some(_) => answer.may_be_json(),
            None => ResponseKind::of(request.endpoint(), answer).is_answer(),
        };
        if !is_answer {
            // It says nothing about the question: neither does anybody else get it, nor does it take the place of an answer.
            return None;
        }
        let key = request.key();
        // Two calls for one key may overlap, one of them forced by `no-cache`. The later question has the better answer.
        if self.entry(key).is_some_and(|entry| entry.asked() > asked) {
            return None;
        }
        self.learn_form(request, answer);
        let age = answer.age();
        // One that is older than this machine runs is as stale as any.
        let lifetimes = self.freshness(request, answer, rows.as_ref());
        let (Some(lifetimes), Some(stored)) = (lifetimes, Instant::now().checked_sub(age)) else {
            self.forget(request);
            return None;
        };
        let ttl = lifetimes.whole;
        if answer.status != StatusCode::OK {
            self.forget(request);
        }
        self.keep_pieces(request, answer, rows.as_ref(), (asked, stored), &lifetimes.ids, None);
        let own = Answer {
            body: Bytes::copy_from_slice(&answer.body),
            ..answer.clone()
        };
        let fits = self.insert(key, Entry::at(key, &own, (asked, stored), ttl));
        fits.then(|| ttl.saturating_sub(age))
    }

    fn worth_prefetching(&self, asked: &Request, most: usize, now: Instant, until: Instant) -> Vec<Box<str>> {
        match self.config.prefetch {
            Prefetch::On if !self.is_off() => self.popularity.worth_prefetching(asked, most, now, until),
            _ => Vec::new(),
        }
    }

    fn keep_rows(&self, request: &Request, prefetched: Option<&Request>, answer: &Answer, asked: Instant) {
        self.keep_united(request, prefetched, answer, asked);
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The cache's state, for `/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Entries in memory.
    pub entries: u64,
    /// Memory they take, in bytes.
    pub bytes: u64,
    /// Requests answered from a fresh entry.
    pub hits: u64,
    /// Requests that went on, or were refused by `only-if-cached`.
    pub misses: u64,
    /// Requests answered from a stale entry.
    pub stale: u64,
}

/// Only `no-store` is obeyed. Web frameworks send `no-cache` or `private` with every answer by default, which is about browsers and shared
/// proxies; this cache serves one app's own questions, and its freshness is the operator's decision.
fn forbids_storing(headers: &Fields) -> bool {
    headers
        .get_all(header::CACHE_CONTROL)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|directive| directive.trim().eq_ignore_ascii_case("no-store"))
}
