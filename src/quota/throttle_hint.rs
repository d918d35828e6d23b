//! What an upstream 429 says about when to come back.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use crate::net::retry_after::{self, units};

/// A 429 answer, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThrottleHint {
    /// The window whose limit is over, if the message names one.
    pub window: Option<Duration>,
    /// How long to wait, if the answer says so in any way: the longest of what it says.
    pub wait: Option<Duration>,
}

impl ThrottleHint {
    /// No wait is taken to be longer: the longest window that the upstream documents is an hour.
    pub const LONGEST_WAIT: Duration = Duration::from_hours(1);

    /// How much of a body is looked at; the known messages have about 150 bytes.
    const MESSAGE_BYTES: usize = 4096;

    /// Reads what the fields say about a wait, and the message, which says "Maximum allowed 30 per
    /// 00:01:00" and "again in 8 seconds" (seen 2021 and 2022). A whole second is added to the
    /// message's wait, because it may have been rounded down.
    pub fn read<'a>(
        fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
        body: &[u8],
        wall: Timestamp,
    ) -> Self {
        let message = String::from_utf8_lossy(&body[..body.len().min(Self::MESSAGE_BYTES)]).to_ascii_lowercase();
        let said = wait_in(&message).map(|wait| wait.saturating_add(Duration::from_secs(1)));
        let wait = retry_after::wait(fields, Some(wall)).max(said);
        let wait = wait.map(|wait| wait.min(Self::LONGEST_WAIT));
        Self {
            window: window_in(&message),
            wait,
        }
    }
}

/// N of "in N seconds" or "after N seconds", in other units as well.
fn wait_in(message: &str) -> Option<Duration> {
    let named = |&(word, unit): &(&str, u64)| {
        message.match_indices(word).find_map(|(end, _)| {
            let before = &message[..end];
            let number = before.rsplit(' ').next()?;
            let lead = before.strip_suffix(number)?;
            let leads = lead.ends_with("in ") || lead.ends_with("after ");
            let units = leads.then(|| units(number)).flatten()?;
            Some(Duration::from_secs(units.saturating_mul(unit)))
        })
    };
    [(" second", 1), (" minute", 60), (" hour", 3600)]
        .iter()
        .find_map(named)
}

/// HH:MM:SS of "per HH:MM:SS", perhaps with days in front (`1.00:00:00`).
fn window_in(message: &str) -> Option<Duration> {
    message.match_indices("per ").find_map(|(start, word)| {
        let rest = &message[start + word.len()..];
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != ':' && c != '.')
            .unwrap_or(rest.len());
        let text = rest[..end].trim_end_matches('.');
        let (days, text) = text.split_once('.').unwrap_or(("0", text));
        let days: u64 = days.parse().ok().filter(|days| *days < 100)?;
        let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        match parts[..] {
            [hours, minutes, seconds] if hours < 100 && minutes < 60 && seconds < 60 => {
                let seconds = days * 86_400 + hours * 3600 + minutes * 60 + seconds;
                Some(Duration::from_secs(seconds)).filter(|window| !window.is_zero())
            }
            _ => None,
        }
    })
}

/// Which window a 429 names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The longest.
    Long,
    /// Another one of ours.
    Other,
    /// None, or one that we do not know.
    Unnamed,
}

/// What a 429 says, seen from the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) window: Which,
    pub(super) wait: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_790_000_000;

    fn read(header: Option<&str>, message: &str) -> ThrottleHint {
        let fields: Vec<_> = header.map(|value| ("retry-after", value)).into_iter().collect();
        read_all(&fields, message)
    }

    fn read_all(fields: &[(&str, &str)], message: &str) -> ThrottleHint {
        let field = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
        let fields: Vec<(HeaderName, HeaderValue)> = fields.iter().map(field).collect();
        ThrottleHint::read(
            fields.iter().map(|(name, value)| (name, value)),
            message.as_bytes(),
            Timestamp::from_second(WALL).unwrap(),
        )
    }

    fn http_date(offset: i64) -> String {
        let at = Timestamp::from_second(WALL + offset).unwrap();
        at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    #[test]
    fn of_several_waits_the_longest_counts() {
        let (soon, late) = (http_date(42), http_date(70));
        let lists = [
            ("8, 42".to_owned(), 42),
            ("42,8".to_owned(), 42),
            (format!("8, {soon}"), 42),
            (format!("{soon}, 60"), 60),
            (format!("{late}, {soon}"), 70),
            (format!(" 0 ,{soon} , soon,, -900"), 42),
            ("Thursday".to_owned(), 0),
        ];
        for (list, seconds) in &lists {
            let wait = Some(Duration::from_secs(*seconds)).filter(|wait| !wait.is_zero());
            assert_eq!(read(Some(list), "").wait, wait, "{list}");
        }
        let fields = [("retry-after", "8"), ("retry-after", &*soon), ("retry-after", "never")];
        assert_eq!(read_all(&fields, "").wait, Some(Duration::from_secs(42)));
        assert_eq!(
            read_all(&fields, "again in 50 seconds").wait,
            Some(Duration::from_secs(51)),
            "the message counts as well"
        );
    }

    #[test]
    fn milliseconds_are_read_where_services_of_azure_send_them() {
        let millis = |wait| Some(Duration::from_millis(wait));
        for name in ["retry-after-ms", "x-ms-retry-after-ms", "X-MS-Retry-After-MS"] {
            assert_eq!(read_all(&[(name, "1500")], "").wait, millis(1500), "{name}");
            assert_eq!(read_all(&[(name, "120, 9.5")], "").wait, millis(120), "{name}");
            assert_eq!(read_all(&[(name, "soon")], "").wait, None, "{name}");
            assert_eq!(
                read_all(&[(name, "99999999999")], "").wait,
                Some(ThrottleHint::LONGEST_WAIT),
                "{name}"
            );
            assert_eq!(read_all(&[(name, "1500"), ("retry-after", "2")], "").wait, millis(2000));
        }
        for name in ["retry-after-s", "x-ms-retry-after", "ratelimit-reset", "date"] {
            assert_eq!(read_all(&[(name, "30")], "").wait, None, "{name}");
        }
    }

    #[test]
    fn the_message_seen_in_2022_tells_window_and_wait() {
        let body = r#"{"error":{"code":"429","message":"API calls quota exceeded! Maximum allowed 30 per 00:01:00 for the key Destination+TenantID+AppID. You can send requests again in 8 seconds.","target":"x"}}"#;
        assert_eq!(
            read(None, body),
            ThrottleHint {
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
            ThrottleHint {
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
        assert_eq!(read(Some(&http_date(42)), "").wait, Some(Duration::from_secs(42)));
        assert_eq!(read(Some(&http_date(-42)), "").wait, Some(Duration::from_secs(0)));
    }

    /// A gateway whose clock is slow would have everybody wait for as long as it is slow.
    #[test]
    fn a_date_counts_from_the_time_that_the_answer_itself_says() {
        let secs = |seconds| Some(Duration::from_secs(seconds));
        let (until, sent) = (http_date(642), http_date(600));
        let fields = [("retry-after", &*until), ("date", &*sent)];
        assert_eq!(read_all(&fields, "").wait, secs(42));
        let fields = [("date", &*sent), ("retry-after", &*until)];
        assert_eq!(read_all(&fields, "").wait, secs(42), "in whatever order they come");
        let fields = [("retry-after", &*until), ("date", "some time ago")];
        assert_eq!(read_all(&fields, "").wait, secs(642));
    }

    #[test]
    fn dates_come_in_three_forms() {
        let at = Timestamp::from_second(WALL + 42).unwrap();
        for form in [
            "%a, %d %b %Y %H:%M:%S GMT",
            "%A, %d-%b-%y %H:%M:%S GMT",
            "%a %b %e %H:%M:%S %Y",
        ] {
            let date = at.strftime(form).to_string();
            assert_eq!(read(Some(&date), "").wait, Some(Duration::from_secs(42)), "{date}");
        }
    }

    #[test]
    fn fractions_are_rounded_up_and_other_units_are_read() {
        let secs = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(read(Some("1.5"), "").wait, secs(2));
        assert_eq!(read(Some(" 7 "), "").wait, secs(7));
        assert_eq!(read(Some("0.0"), "").wait, secs(0));
        assert_eq!(read(None, "again in 8.2 seconds.").wait, secs(10));
        assert_eq!(read(None, "Please retry after 20 seconds.").wait, secs(21));
        assert_eq!(read(None, "try again in 2 minutes").wait, secs(121));
        assert_eq!(read(None, "IN 1 HOUR").wait, secs(3600), "clamped");
        for text in ["-1", "1e3", "1;5", "1.", ".5", "0x10", "5 s", "+5"] {
            assert_eq!(read(Some(text), "").wait, None, "{text}");
        }
    }

    #[test]
    fn a_window_may_have_days_and_end_a_sentence() {
        let window = |message| read(None, message).window;
        assert_eq!(
            window("maximum allowed 1500 per 01:00:00."),
            Some(Duration::from_hours(1))
        );
        assert_eq!(window("maximum 9 per 1.00:00:00"), Some(Duration::from_hours(24)));
        assert_eq!(window("maximum 9 per 1.2.00:00:00"), None);
    }

    #[test]
    fn waits_are_clamped_to_an_hour() {
        assert_eq!(read(Some("999999"), "").wait, Some(Duration::from_hours(1)));
        for (header, message) in [
            (None, "in 99999999999999999999999 seconds"),
            (Some("99999999999999999999999"), ""),
            (Some("18446744073709551615"), "in 18446744073709551615 hours"),
            (Some("Fri, 01 Jan 9999 00:00:00 GMT"), ""),
        ] {
            assert_eq!(
                read(header, message).wait,
                Some(Duration::from_hours(1)),
                "{header:?} {message}"
            );
        }
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
            assert_eq!(read(Some("soon"), text), ThrottleHint::default(), "{text}");
        }
    }
}
