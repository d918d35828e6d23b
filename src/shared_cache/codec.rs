//! The encoding of an answer in the store.
//!
//! ```text
//! version (1) · asked (8, store's milliseconds) · check (8) · length (4) · LZ4 block of that length: a line of JSON, then the body
//! ```
//! Numbers have their most significant byte first, so that the first nine bytes of two answers
//! compare as their ages do. The times are those of the store's clock, as this replica knows it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use ring::digest;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::config::Name;
use crate::scan::{Headers, UpstreamResponse};

/// An answer, with times of the store's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// The upstream's answer.
    pub answer: UpstreamResponse,
    /// When the upstream was asked.
    pub asked: StoreTime,
    /// When the answer came.
    pub stored: StoreTime,
    /// How long it is fresh.
    pub ttl: Duration,
}

/// The line of JSON before the body.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    stored: u64,
    ttl_ms: u64,
    status: u16,
    fields: Vec<(String, String)>,
}

/// Why a value cannot be used. The effect on a request is always the same; the reason is for the
/// log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Another version of the program wrote it, or something else.
    #[error("it is of another version")]
    Version,
    /// Shorter than the header, or longer than [`StoredResponse::LARGEST_OPEN`] when unpacked.
    #[error("it is too short or too long")]
    Size,
    /// It was cut, changed, or stored under another name.
    #[error("its check does not hold")]
    Check,
    /// The check is right, but the content is no answer.
    #[error("it cannot be taken apart")]
    Shape,
    /// Its answer arrived more than a second in the future.
    #[error("it is from the future")]
    Future,
}

const VERSION: u8 = 1;
const HEAD: usize = 1 + 8 + 8 + 4;

impl StoredResponse {
    /// The most bytes of an encoded answer.
    pub const LARGEST: usize = 1 << 20;
    /// The most bytes of an unpacked answer: no more memory is allocated, whatever the header says.
    pub const LARGEST_OPEN: usize = 8 << 20;

    /// Encodes the answer; `None` when it is too large, or has header fields that are not text.
    pub fn write(&self, name: &Name) -> Option<Vec<u8>> {
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        };
        let meta = Meta {
            stored: self.stored.0,
            ttl_ms: u64::try_from(self.ttl.as_millis()).ok()?,
            status: self.answer.status.as_u16(),
            fields: self.answer.headers.iter().map(field).collect::<Option<_>>()?,
        };
        let mut open = serde_json::to_vec(&meta).ok()?;
        open.push(b'\n');
        if open.len() + self.answer.body.len() > Self::LARGEST_OPEN {
            return None;
        }
        open.extend_from_slice(&self.answer.body);
        let packed = lz4_flex::block::compress(&open);
        let value = Self::framed(name, self.asked, u32::try_from(open.len()).ok()?, &packed);
        (value.len() <= Self::LARGEST).then_some(value)
    }

    /// The header and an LZ4 block of `length` bytes unpacked. The check is right whatever the
    /// block contains.
    pub fn framed(name: &Name, asked: StoreTime, length: u32, packed: &[u8]) -> Vec<u8> {
        let (asked, length) = (asked.0.to_be_bytes(), length.to_be_bytes());
        let check = check(name, asked, length, packed);
        [&[VERSION][..], &asked, &check, &length, packed].concat()
    }

    /// The unpacked length according to the header.
    pub fn claimed(bytes: &[u8]) -> usize {
        let length = bytes.get(HEAD - 4..HEAD).and_then(|length| length.try_into().ok());
        length.map_or(0, |length| u32::from_be_bytes(length) as usize)
    }

    /// Decodes a value that was read when the store's clock showed `now`.
    ///
    /// # Errors
    ///
    /// Why the value cannot be used.
    pub fn read(name: &Name, bytes: &[u8], now: StoreTime) -> Result<Self, DecodeError> {
        if bytes.first() != Some(&VERSION) {
            return Err(DecodeError::Version);
        }
        let (head, packed) = bytes.split_at_checked(HEAD).ok_or(DecodeError::Size)?;
        let (Ok(asked), Ok(length)) = (head[1..9].try_into(), head[17..].try_into()) else {
            return Err(DecodeError::Size);
        };
        if head[9..17] != check(name, asked, length, packed) {
            return Err(DecodeError::Check);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| DecodeError::Size)?;
        if length > Self::LARGEST_OPEN {
            return Err(DecodeError::Size);
        }
        let mut open = vec![0; length];
        let written = lz4_flex::block::decompress_into(packed, &mut open).map_err(|_| DecodeError::Shape)?;
        if written != length {
            return Err(DecodeError::Shape);
        }
        let end = memchr::memchr(b'\n', &open).ok_or(DecodeError::Shape)?;
        let meta: Meta = serde_json::from_slice(&open[..end]).map_err(|_| DecodeError::Shape)?;
        let stored = StoreTime(meta.stored);
        // After a failover, the new store's clock may be a little behind.
        if stored.since(now).is_some_and(|ahead| ahead > Duration::from_secs(1)) {
            return Err(DecodeError::Future);
        }
        Ok(Self {
            answer: UpstreamResponse {
                status: StatusCode::from_u16(meta.status).map_err(|_| DecodeError::Shape)?,
                headers: fields(&meta.fields).ok_or(DecodeError::Shape)?,
                body: Bytes::from(open).slice(end + 1..),
            },
            asked: StoreTime(u64::from_be_bytes(asked)),
            stored,
            ttl: Duration::from_millis(meta.ttl_ms),
        })
    }
}

fn fields(fields: &[(String, String)]) -> Option<Headers> {
    let field = |(name, value): &(String, String)| {
        Some((
            HeaderName::from_bytes(name.as_bytes()).ok()?,
            // Only ASCII, as it was written: other bytes could be read, but not written again.
            HeaderValue::from_str(value).ok().filter(|_| value.is_ascii())?,
        ))
    };
    fields.iter().map(field).collect()
}

/// A checksum against values that were cut, mixed up or stored under another name. It is no
/// protection against forged answers: anyone who can write to the store can forge them.
fn check(name: &Name, asked: [u8; 8], length: [u8; 4], packed: &[u8]) -> [u8; 8] {
    let mut context = digest::Context::new(&digest::SHA256);
    for piece in [name.as_str().as_bytes(), &asked, &length, packed] {
        context.update(piece);
    }
    let mut check = [0; 8];
    check.copy_from_slice(&context.finish().as_ref()[..8]);
    check
}

/// A moment by the store's clock: milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreTime(pub u64);

impl StoreTime {
    /// The time since `earlier`; `None` when `earlier` is later.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}

/// The store's time in its latest reply, and when that reply arrived.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Option<(StoreTime, Instant)>>);

impl Clock {
    /// Records that a reply that arrived at `heard` contained the store's `time`.
    pub(super) fn set(&self, time: StoreTime, heard: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, heard));
    }

    /// The store's time at `moment`, or up to one exchange earlier; `None` when no reply has
    /// arrived yet.
    pub(super) fn at(&self, moment: Instant) -> Option<StoreTime> {
        let (time, heard) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        // When the reply arrived, the store's clock was at least here.
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let at = if moment >= heard {
            time.0.saturating_add(millis(moment - heard))
        } else {
            time.0.saturating_sub(millis(heard - moment).saturating_add(1))
        };
        Some(StoreTime(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: StoreTime = StoreTime(1_700_000_030_000);

    fn value(body: Vec<u8>) -> StoredResponse {
        let field = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let headers = [
            field("content-type", "application/json"),
            field("x-twice", "1"),
            field("x-twice", "2"),
        ];
        StoredResponse {
            answer: UpstreamResponse {
                status: StatusCode::OK,
                headers: headers.into_iter().collect(),
                body: body.into(),
            },
            asked: StoreTime(1_700_000_000_000),
            stored: StoreTime(1_700_000_010_000),
            ttl: Duration::from_millis(29_123),
        }
    }

    fn name() -> Name {
        Name::new("n")
    }

    #[test]
    fn what_is_written_can_be_read() {
        for body in [vec![], b"{\"value\":[\n]}".to_vec(), vec![7; 1 << 20]] {
            let value = value(body);
            let bytes = value.write(&name()).unwrap();
            let read = StoredResponse::read(&name(), &bytes, NOW).unwrap();
            assert_eq!(read, value);
        }
    }

    #[test]
    fn values_that_are_cut_changed_or_misplaced_cannot_be_decoded() {
        let bytes = value(b"0123456789".repeat(9)).write(&name()).unwrap();
        for end in 0..bytes.len() {
            StoredResponse::read(&name(), &bytes[..end], NOW).unwrap_err();
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            StoredResponse::read(&name(), &changed, NOW).unwrap_err();
        }
        StoredResponse::read(&Name::new("m"), &bytes, NOW).unwrap_err();
    }

    #[test]
    fn fields_that_could_not_be_written_again_are_not_read() {
        let read = |field: &str| {
            let open =
                format!(r#"{{"stored":1700000010000,"ttl_ms":1,"status":200,"fields":[["a","{field}"]]}}"#) + "\n";
            let packed = lz4_flex::block::compress(open.as_bytes());
            let length = u32::try_from(open.len()).unwrap();
            StoredResponse::read(
                &name(),
                &StoredResponse::framed(&name(), StoreTime(1), length, &packed),
                NOW,
            )
            .err()
        };
        assert_eq!(read("b"), None);
        assert_eq!(read("é"), Some(DecodeError::Shape));
    }

    #[test]
    fn another_version_is_recognised_by_its_first_byte() {
        let mut bytes = value(vec![]).write(&name()).unwrap();
        bytes[0] = 2;
        assert_eq!(
            StoredResponse::read(&name(), &bytes, NOW).unwrap_err(),
            DecodeError::Version
        );
    }

    /// A value with a right check and a wrong content, as only an attacker would write it.
    fn forged(length: u32, packed: &[u8]) -> Vec<u8> {
        let (asked, length) = ([0; 8], length.to_be_bytes());
        let check = check(&name(), asked, length, packed);
        [&[VERSION][..], &asked, &check, &length, packed].concat()
    }

    #[test]
    fn a_bomb_is_refused_before_it_takes_memory() {
        let read = |bytes: &[u8]| StoredResponse::read(&name(), bytes, NOW).unwrap_err();
        let bomb = lz4_flex::block::compress(&vec![b' '; 64 << 20]);
        assert!(bomb.len() < StoredResponse::LARGEST);
        assert_eq!(read(&forged(64 << 20, &bomb)), DecodeError::Size);
        assert_eq!(read(&forged(u32::MAX, &bomb)), DecodeError::Size);
        assert_eq!(read(&forged(1 << 10, &bomb)), DecodeError::Shape, "more than it says");
        assert_eq!(read(&forged(1 << 10, &[0xff; 9])), DecodeError::Shape);
        let short = lz4_flex::block::compress(b"{}\n");
        assert_eq!(read(&forged(1 << 10, &short)), DecodeError::Shape, "less than it says");
        assert_eq!(read(&forged(3, &short)), DecodeError::Shape);
    }

    #[test]
    fn values_from_the_future_are_rejected() {
        let bytes = value(vec![]).write(&name()).unwrap();
        let read = |now| StoredResponse::read(&name(), &bytes, StoreTime(now)).map(|_| ());
        assert_eq!(read(1_700_000_009_500), Ok(()));
        assert_eq!(read(1_700_000_008_000), Err(DecodeError::Future));
    }

    #[test]
    fn values_that_are_too_large_are_not_written() {
        let noise: Vec<u8> = std::iter::repeat_with(rand::random)
            .take(StoredResponse::LARGEST)
            .collect();
        assert!(value(noise).write(&name()).is_none());
        assert!(value(vec![b' '; StoredResponse::LARGEST_OPEN]).write(&name()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_stores_time_goes_on_from_its_latest_reply() {
        let clock = Clock::default();
        let heard = Instant::now() + Duration::from_mins(1);
        assert_eq!(clock.at(heard), None);
        clock.set(StoreTime(1_000_000), heard);
        assert_eq!(clock.at(heard + Duration::from_secs(5)), Some(StoreTime(1_005_000)));
        let before = clock.at(heard - Duration::from_secs(5)).unwrap();
        assert!(before <= StoreTime(995_000) && before >= StoreTime(994_990));
    }
}
