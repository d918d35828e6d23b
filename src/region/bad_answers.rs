//! Whose fault bad answers are: the host's, or the request's.
//!
//! A 5xx, a connection that is lost after the request was sent, or a response that is no answer of
//! Defender's (a page, a redirect, an encoded body, a status without a meaning), may come from a
//! host that is broken, or be what every host does with this request. One rule decides for all of
//! them. A bad answer alone makes its host avoided for a moment, and its request goes to other
//! hosts first, also when it waits so long for its next attempt that the host has answered others:
//!
//! * another host answers the same request: it was the host's fault. For a 5xx and a lost
//!   connection that counts as one bad outcome, two of which eject a host without a good one; for a
//!   response that is no answer the host is ejected;
//! * a host that gave a bad answer answers another request that was sent later: it was the
//!   request's fault, at all hosts that gave it a bad answer, and counts for none of them. If it
//!   was one host alone, and the request is answered by another after all, that counts as one bad
//!   outcome, so that a host that fails a part of its requests is found out;
//! * neither, while three different requests, sent one after the other, got bad answers: the host
//!   answers nothing any more, and is ejected.
//!
//! So a request that no host can answer ejects no host that answers others, a host that answers
//! nothing is found out also when others are as broken, and with one host, which nothing can be
//! compared with, only the third case ejects.
//!
//! Two kinds go by another rule, that of
//! [`Health::bad_answer`](crate::region::health::Health::bad_answer): they count against the host
//! whatever others do, and three within two minutes eject it if they are a fifth of its outcomes. A
//! host that did not take the request has not seen what might be wrong with it. After a timeout an
//! answer of another host says little, since that one may only have had more time, and its being
//! slow, too, is no excuse for a host that is silent; `outlier` compares how long they take.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::region::SelectedHost;
use crate::region::health::{MAX_OUTCOMES, MEMORY, OUTLIER_LEAST};
use crate::region::host::Host;
use crate::region::host_selector::State;

/// How long another host's answer to the same request shows that the host was at fault, although
/// the host has answered other requests since, and others gave this one bad answers, too: what no
/// host could answer for a while says nothing about one of them when it is over.
const FRESH: Duration = Duration::from_secs(10);

/// A host's bad answers, at most one for each request.
#[derive(Debug, Default)]
pub(super) struct BadAnswers(VecDeque<BadAnswer>);

#[derive(Clone, Copy, Debug)]
struct BadAnswer {
    request: u64,
    at: Instant,
    /// Whether it was no answer of Defender's: neither one that says that there is none, nor a lost
    /// connection.
    invalid: bool,
    /// Whether its call began after the bad answer before it had come: those of calls that were
    /// under way together count as one.
    counts: bool,
    /// When it was found to be the request's fault, if it was.
    excused: Option<Instant>,
}

impl BadAnswers {
    /// Whether the request got a bad answer here. It may be the host's fault although the host
    /// answers other requests.
    pub(super) fn are_suspected(&self, request: u64, now: Instant) -> bool {
        self.0.iter().any(|bad| bad.request == request && bad.age(now) < MEMORY)
    }

    /// When a bad answer to the request was last found to be the request's fault, if that still
    /// counts.
    fn excused(&self, request: u64, now: Instant) -> Option<Instant> {
        let bad = self.0.iter().find(|bad| bad.request == request)?;
        bad.excused
            .filter(|excused| now.saturating_duration_since(*excused) < MEMORY)
    }

    fn add(&mut self, call: &SelectedHost, invalid: bool, excused: Option<Instant>, now: Instant) {
        self.forget(call.request);
        self.0.retain(|bad| bad.age(now) < MEMORY);
        if self.0.len() >= MAX_OUTCOMES {
            self.0.pop_front();
        }
        let last = self.open().map(|bad| bad.at).max();
        self.0.push_back(BadAnswer {
            request: call.request,
            at: now,
            invalid,
            counts: last.is_none_or(|last| call.at >= last),
            excused,
        });
    }

    /// Those that count and are not excused.
    fn open(&self) -> impl Iterator<Item = &BadAnswer> {
        self.0.iter().filter(|bad| bad.counts && bad.excused.is_none())
    }

    fn forget(&mut self, request: u64) {
        self.0.retain(|bad| bad.request != request);
    }

    /// Another host has answered this request: the bad answer to it that was the host's fault.
    /// `alone` tells whether only one host gave it a bad answer.
    fn take_fault(&mut self, request: u64, alone: bool, now: Instant) -> Option<BadAnswer> {
        let at = self.0.iter().position(|bad| bad.request == request)?;
        let bad = self.0.remove(at)?;
        Some(bad).filter(|bad| bad.age(now) < MEMORY && (alone || bad.is_fresh(now)))
    }

    /// The requests with a bad answer from before a call that was answered, unless they have been
    /// excused since that bad answer.
    fn before(&self, begun: Instant) -> impl Iterator<Item = u64> {
        let is_new = |bad: &BadAnswer| bad.excused.is_none_or(|excused| excused < bad.at);
        let earlier = self.0.iter().filter(move |bad| is_new(bad) && bad.at <= begun);
        earlier.map(|bad| bad.request)
    }

    fn excuse(&mut self, requests: &[u64], now: Instant) {
        for bad in &mut self.0 {
            if requests.contains(&bad.request) {
                bad.excused = Some(now);
            }
        }
    }
}

impl BadAnswer {
    /// Whether no answer to another request has excused it, or it has only just come.
    fn is_fresh(&self, now: Instant) -> bool {
        self.excused.is_none() || self.age(now) < FRESH
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

impl State {
    /// A host could not answer, lost the connection, or (`invalid`) sent no answer of Defender's.
    pub(super) fn on_bad_answer(&mut self, call: &SelectedHost, invalid: bool, now: Instant) {
        // It may come after the answer that excused the request, which its host never sees.
        let known = |host: &Host| host.bad_answers.excused(call.request, now);
        let excused = self.hosts.iter().filter_map(known).max();
        let host = &mut self.hosts[call.index];
        host.health.avoid(now);
        host.bad_answers.add(call, invalid, excused, now);
        if host.bad_answers.open().count() >= OUTLIER_LEAST {
            host.health.eject(now);
        }
    }

    /// A host has answered, which tells whose fault bad answers were.
    pub(super) fn judge_bad_answers(&mut self, call: &SelectedHost, now: Instant) {
        let is_suspected = |host: &&Host| host.bad_answers.are_suspected(call.request, now);
        let alone = self.hosts.iter().filter(is_suspected).count() == 1;
        self.hosts[call.index].bad_answers.forget(call.request);
        for host in &mut self.hosts {
            match host.bad_answers.take_fault(call.request, alone, now) {
                Some(bad) if bad.invalid && bad.is_fresh(now) => host.health.eject(now),
                Some(_) => host.health.outdone(now),
                None => {}
            }
        }
        let excused: Vec<u64> = self.hosts[call.index].bad_answers.before(call.at).collect();
        if !excused.is_empty() {
            for host in &mut self.hosts {
                host.bad_answers.excuse(&excused, now);
            }
        }
    }
}
