//! `Retry-After` (RFC 9110 §10.2.3).

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use jiff::Timestamp;

/// The longest wait that is obeyed; a server that asks for more is asked again after this.
const MAX: Duration = Duration::from_hours(1);

/// How long a response asks to wait: seconds, or a date, which is compared with the server's own
/// clock if it sends its time.
pub(super) fn asked(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        // More digits than fit mean a very long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let now = date(headers).unwrap_or(now);
        Duration::try_from(http_date(value)?.duration_since(now)).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(MAX))
}

/// The server's clock, from its `Date` field.
pub(super) fn date(headers: &HeaderMap) -> Option<Timestamp> {
    http_date(headers.get(DATE)?.to_str().ok()?)
}

fn http_date(text: &str) -> Option<Timestamp> {
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(date.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_by(fields: &[(http::HeaderName, &str)]) -> Option<Duration> {
        let now = "2026-11-05T12:00:00Z".parse().unwrap();
        let fields = fields
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()));
        asked(&fields.collect(), now)
    }

    #[test]
    fn seconds_are_clamped_to_an_hour() {
        assert_eq!(asked_by(&[(RETRY_AFTER, "60")]), Some(Duration::from_mins(1)));
        assert_eq!(asked_by(&[(RETRY_AFTER, "0")]), Some(Duration::ZERO));
        assert_eq!(asked_by(&[(RETRY_AFTER, "99999999999999999999999")]), Some(MAX));
    }

    #[test]
    fn dates_are_read_against_the_servers_clock() {
        let date = "Thu, 05 Nov 2026 12:00:30 GMT";
        assert_eq!(asked_by(&[(RETRY_AFTER, date)]), Some(Duration::from_secs(30)));
        let fields = [(RETRY_AFTER, date), (DATE, "Thu, 05 Nov 2026 12:00:20 GMT")];
        assert_eq!(asked_by(&fields), Some(Duration::from_secs(10)));
        assert_eq!(
            asked_by(&[(RETRY_AFTER, "Thu, 05 Nov 2026 11:00:00 GMT")]),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn nonsense_is_ignored() {
        for text in ["", "soon", "-5", "1.5", "Thu, 99 Nov 2026 12:00:30 GMT"] {
            assert_eq!(asked_by(&[(RETRY_AFTER, text)]), None, "{text:?}");
        }
    }
}
