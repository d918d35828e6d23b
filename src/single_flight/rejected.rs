//! What the upstream rejected when it was asked for alone, and what would make a batch fail.
//!
//! Of a rejected request for several ids it is not known which of them is the reason. An id that is
//! in two of them is taken for it. That may be wrong: such an id is asked for alone then, and its
//! first answer puts it right. A request that names an id which was found out before casts no
//! suspicion on its others. So ids that the upstream rejects stay, and the others leave soon.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::scan::{Request, UpstreamResponse};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rejected {
    /// Hashes of ids, and of the keys of requests for several ids, that are kept out of batches.
    /// Two that happen to be the same cost some calls.
    until: HashMap<u64, Instant>,
    /// Ids of rejected requests for several, each with the first of these requests.
    suspects: HashMap<u64, u64>,
    hasher: RandomState,
}

impl Rejected {
    /// How long an id is kept out of batches. As when batching is paused, this only costs some
    /// calls.
    const TIME: Duration = Duration::from_mins(10);
    /// The most that is remembered. If there are more, batching is paused now and then.
    const MOST: usize = 1024;
    /// The code of a rejection that is about the number of ids, and not about one of them.
    const TOO_MANY_IDS: &[u8] = b"MaximumBatchSizeExceeded";

    /// Records that a request was rejected.
    pub(super) fn note(&mut self, request: &Request, answer: &UpstreamResponse, now: Instant) {
        let ids = self.ids(request);
        let reasons = match &*ids {
            [_] => ids,
            _ if answer
                .body
                .windows(Self::TOO_MANY_IDS.len())
                .any(|text| text == Self::TOO_MANY_IDS) =>
            {
                Vec::new()
            }
            _ => self.reasons(&ids, now),
        };
        let whole = (request.ids().len() > 1).then(|| self.hasher.hash_one(request.key()));
        if self.until.len() >= Self::MOST {
            self.until.retain(|_, until| *until > now);
        }
        for part in whole.into_iter().chain(reasons) {
            if self.until.len() < Self::MOST || self.until.contains_key(&part) {
                self.until.insert(part, now + Self::TIME);
            }
        }
    }

    /// Which of several ids may be the reason; if there is none yet, all are suspects.
    fn reasons(&mut self, ids: &[u64], now: Instant) -> Vec<u64> {
        let mut reasons = ids.to_vec();
        reasons.retain(|id| self.is_kept_out(*id, now));
        if !reasons.is_empty() {
            return reasons;
        }
        // A request for the same ids tells nothing new, whatever else it says.
        let request = ids.iter().fold(0, |all, id| all ^ id);
        reasons.extend(ids.iter().filter(|id| {
            let before = self.suspects.get(id);
            before.is_some_and(|before| *before != request)
        }));
        if !reasons.is_empty() {
            return reasons;
        }
        if self.suspects.len() + ids.len() > Self::MOST {
            self.suspects.clear();
        }
        if ids.len() <= Self::MOST {
            self.suspects.extend(ids.iter().map(|id| (*id, request)));
        }
        reasons
    }

    /// Records that a request was answered: nothing in it is a reason to reject a batch.
    pub(super) fn forget(&mut self, request: &Request) {
        if self.until.is_empty() && self.suspects.is_empty() {
            return;
        }
        self.until.remove(&self.hasher.hash_one(request.key()));
        for id in self.ids(request) {
            self.until.remove(&id);
            self.suspects.remove(&id);
        }
    }

    /// Whether it is such a request, or names such an id.
    pub(super) fn include(&self, request: &Request, now: Instant) -> bool {
        !self.until.is_empty()
            && (self.is_kept_out(self.hasher.hash_one(request.key()), now)
                || self.ids(request).into_iter().any(|id| self.is_kept_out(id, now)))
    }

    fn is_kept_out(&self, part: u64, now: Instant) -> bool {
        self.until.get(&part).is_some_and(|until| *until > now)
    }

    fn ids(&self, request: &Request) -> Vec<u64> {
        request.ids().map(|id| self.hasher.hash_one(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::scan::{Endpoint, Headers};

    fn request(ids: &[&str]) -> Request {
        Request::plain(Endpoint::HISTORY, ids.iter().copied()).unwrap()
    }

    fn error(code: &str) -> UpstreamResponse {
        UpstreamResponse {
            status: StatusCode::BAD_REQUEST,
            headers: Headers::default(),
            body: Bytes::from(format!(
                r#"{{"error":{{"code":"{code}","message":"no such definition"}}}}"#
            )),
        }
    }

    fn not_found() -> UpstreamResponse {
        error("NotFound")
    }

    #[tokio::test(start_paused = true)]
    async fn rejected_ids_expire_and_are_bounded() {
        let mut rejected = Rejected::default();
        let now = Instant::now();
        for n in 0..2000 {
            rejected.note(&request(&[&n.to_string()]), &not_found(), now);
        }
        assert_eq!(rejected.until.len(), Rejected::MOST);
        assert!(rejected.include(&request(&["7"]), now));
        assert!(!rejected.include(&request(&["x"]), now));
        let later = now + Rejected::TIME;
        assert!(!rejected.include(&request(&["7"]), later));
        rejected.note(&request(&["x"]), &not_found(), later);
        assert_eq!(rejected.until.len(), 1);
        for n in 0..2000 {
            rejected.note(
                &request(&[&n.to_string(), &(n + 2000).to_string()]),
                &not_found(),
                later,
            );
            assert!(rejected.suspects.len() <= Rejected::MOST);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_of_two_rejected_requests_is_found_out_and_others_leave_with_their_first_answer() {
        let mut rejected = Rejected::default();
        let now = Instant::now();
        let out = |rejected: &Rejected| ["a", "b", "c", "d", "gone"].map(|id| rejected.include(&request(&[id]), now));
        for _ in 0..2 {
            // Once more, and with another `$top`: that tells nothing new.
            rejected.note(&request(&["a", "b", "gone"]), &not_found(), now);
            let with_top = Request::all(Endpoint::HISTORY, ["a", "b", "gone"]).unwrap();
            rejected.note(&with_top, &not_found(), now);
        }
        assert_eq!(out(&rejected), [false; 5]);
        rejected.note(&request(&["a", "c", "gone"]), &not_found(), now);
        assert_eq!(out(&rejected), [true, false, false, false, true]);
        rejected.forget(&request(&["a"]));
        for id in ["a", "b", "c", "d"] {
            rejected.note(&request(&[id, "gone"]), &not_found(), now);
        }
        assert_eq!(out(&rejected), [false, false, false, false, true]);
        rejected.forget(&request(&["gone", "a"]));
        assert_eq!(out(&rejected), [false; 5], "it is there again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_of_too_many_ids_says_nothing_about_an_id() {
        let mut rejected = Rejected::default();
        let now = Instant::now();
        let too_many = error("MaximumBatchSizeExceeded");
        for id in ["b", "c", "d"] {
            rejected.note(&request(&["a", "x", id]), &too_many, now);
        }
        assert!(!rejected.include(&request(&["a"]), now));
        assert!(rejected.include(&request(&["a", "x", "b"]), now));
    }
}
