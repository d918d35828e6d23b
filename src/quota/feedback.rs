//! What an upstream 429 says about when to come back.

use std::time::Duration;

use http::HeaderValue;
use jiff::Timestamp;

/// A 429 answer, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// The window whose limit is over, if the message names one.
    pub window: Option<Duration>,
    /// How long to wait, if the answer says so in any way: the longest of what it says.
    pub wait: Option<Duration>,
}

impl Throttled {
    /// No wait is taken to be longer: the longest window that the upstream documents is an hour.
    pub const LONGEST_WAIT: Duration = Duration::from_hours(1);

    /// How much of a body is looked at; the known messages have about 150 bytes.
    const MESSAGE_BYTES: usize = 4096;

    /// Reads `Retry-After` (seconds or date, RFC 9110 §10.2.3) and the message, which says "Maximum allowed 30 per 00:01:00" and "again
    /// in 8 seconds" (seen 2021 and 2022). A whole second is added to the message's wait, because it may have been rounded down.
    #[must_use]
    pub fn read(retry_after: Option<&HeaderValue>, body: &[u8], wall: Timestamp) -> Self {
        let message = String::from_utf8_lossy(&body[..body.len().min(Self::MESSAGE_BYTES)]).to_ascii_lowercase();
        let field = retry_after
            .and_then(|value| value.to_str().ok())
            .and_then(|text| wait(text, wall));
        let said = seconds_in(&message).map(|wait| wait + Duration::from_secs(1));
        let wait = field.max(said).map(|wait| wait.min(Self::LONGEST_WAIT));
        Self {
            window: window_in(&message),
            wait,
        }
    }
}

/// `Retry-After`, as seconds or as a date.
fn wait(text: &str, wall: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    // A date in the past means: now.
    Some(Duration::try_from(date.duration_since(wall)).unwrap_or(Duration::ZERO))
}

/// N of "in N seconds".
fn seconds_in(message: &str) -> Option<Duration> {
    message.match_indices(" second").find_map(|(end, _)| {
        let before = &message[..end];
        let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next()?;
        before.strip_suffix(digits)?.ends_with("in ").then_some(())?;
        digits.parse().ok().map(Duration::from_secs)
    })
}

/// HH:MM:SS of "per HH:MM:SS", perhaps with days in front (`1.00:00:00`).
fn window_in(message: &str) -> Option<Duration> {
    message.match_indices("per ").find_map(|(start, word)| {
        let rest = &message[start + word.len()..];
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != ':')
            .unwrap_or(rest.len());
        let parts: Vec<u64> = rest[..end]
            .split(':')
            .map(|part| part.parse().ok())
            .collect::<Option<_>>()?;
        match parts[..] {
            [hours, minutes, seconds] if hours < 100 && minutes < 60 && seconds < 60 => {
                Some(Duration::from_secs(hours * 3600 + minutes * 60 + seconds)).filter(|window| !window.is_zero())
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_790_000_000;

    fn read(header: Option<&str>, message: &str) -> Throttled {
        let field = header.map(|value| value.parse().unwrap());
        Throttled::read(
            field.as_ref(),
            message.as_bytes(),
            Timestamp::from_second(WALL).unwrap(),
        )
    }

    #[test]
    fn the_message_seen_in_2022_tells_window_and_wait() {
        let body = r#"{"error":{"code":"429","message":"API calls quota exceeded! Maximum allowed 30 per 00:01:00 for the key Destination+TenantID+AppID. You can send requests again in 8 seconds.","target":"x"}}"#;
        assert_eq!(
            read(None, body),
            Throttled {
                window: Some(Duration::from_mins(1)),
                wait: Some(Duration::from_secs(9))
            }
        );
    }

    #[test]
    fn the_message_seen_in_2021_tells_the_window_only() {
        let body = "API calls quota exceeded! maximum allowed 1500 per 01:00:00";
        assert_eq!(
            read(None, body),
            Throttled {
                window: Some(Duration::from_hours(1)),
                wait: None
            }
        );
    }

    #[test]
    fn the_longest_of_header_and_message_counts() {
        assert_eq!(
            read(Some("20"), "again in 8 seconds").wait,
            Some(Duration::from_secs(20))
        );
        assert_eq!(read(Some("2"), "again in 8 seconds").wait, Some(Duration::from_secs(9)));
        assert_eq!(read(Some("2"), "again in 1 second").wait, Some(Duration::from_secs(2)));
    }

    #[test]
    fn dates_count_from_the_wall_clock_and_the_past_means_now() {
        let date = |offset: i64| {
            let at = Timestamp::from_second(WALL + offset).unwrap();
            at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
        };
        assert_eq!(read(Some(&date(42)), "").wait, Some(Duration::from_secs(42)));
        assert_eq!(read(Some(&date(-42)), "").wait, Some(Duration::from_secs(0)));
    }

    #[test]
    fn waits_are_clamped_to_an_hour() {
        assert_eq!(read(Some("999999"), "").wait, Some(Duration::from_hours(1)));
        assert_eq!(read(None, "in 99999999999999999999999 seconds").wait, None);
    }

    #[test]
    fn rubbish_tells_nothing() {
        for text in [
            "",
            "in seconds",
            "per 00:00:00",
            "per 1:2",
            "per 99:99:99",
            "\u{fffd} in -1 seconds per :::",
        ] {
            assert_eq!(read(Some("soon"), text), Throttled::default(), "{text}");
        }
    }
}
