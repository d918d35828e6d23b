//! W3C Trace Context, level 1 and 2: reads it from callers and writes it to the upstream.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The header field with the caller's trace and span.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header field with data of tracing systems.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The longest accepted `tracestate` in bytes; the specification asks for 512 at least (§3.3.1.5).
const MAX_STATE_BYTES: usize = 1024;

/// The caller's span context. `None` when there is none, or when it is malformed, which starts a
/// new trace (§3.2.2.5).
///
/// A malformed `tracestate` is dropped, and the caller's span kept (§3.3).
pub fn read(fields: &HeaderMap) -> Option<SpanContext> {
    let mut parents = fields.get_all(TRACEPARENT).iter();
    let (parent, None) = (parents.next()?, parents.next()) else {
        return None;
    };
    let (trace_id, span_id, flags) = parse(parent.as_bytes())?;
    let state = state(fields).unwrap_or_default();
    Some(SpanContext::new(trace_id, span_id, flags, true, state))
}

/// Sets `context` on a request, replacing any other.
pub fn write(context: &SpanContext, fields: &mut HeaderMap) {
    let flags = context.trace_flags() & KNOWN_FLAGS;
    let parent = format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), flags);
    if let Ok(parent) = HeaderValue::try_from(parent) {
        fields.insert(TRACEPARENT, parent);
    }
    let state = context.trace_state().header();
    if !state.is_empty()
        && let Ok(state) = HeaderValue::try_from(state)
    {
        fields.insert(TRACESTATE, state);
    }
}

/// Sampled, and level 2's flag for a random trace id. Others are not passed on (§3.2.2.5.3).
const KNOWN_FLAGS: TraceFlags = TraceFlags::new(0b11);

/// `version-traceid-spanid-flags`, all in lower-case hexadecimal (§3.2).
fn parse(text: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    const LENGTH: usize = 55;
    let (known, rest) = text.split_at_checked(LENGTH)?;
    let dashes = [2, 35, 52].iter().all(|at| known[*at] == b'-');
    let version = hex(&known[..2]).filter(|version| *version != 0xff)?;
    // Later versions may have more parts, after another dash (§3.2.3).
    let end = rest.is_empty() || (version > 0 && rest[0] == b'-');
    let trace_id = hex(&known[3..35]).filter(|id| *id != 0)?;
    let span_id = hex(&known[36..52])
        .and_then(|id| u64::try_from(id).ok())
        .filter(|id| *id != 0)?;
    let flags = hex(&known[53..]).and_then(|flags| u8::try_from(flags).ok())?;
    (dashes && end).then(|| (trace_id.into(), span_id.into(), TraceFlags::new(flags) & KNOWN_FLAGS))
}

fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0_u128, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// All fields as one list (§3.3.1); `None` when there is none, or when it is invalid.
fn state(fields: &HeaderMap) -> Option<TraceState> {
    let mut pairs = Vec::new();
    let mut bytes = 0;
    for field in fields.get_all(TRACESTATE) {
        let text = field.to_str().ok()?;
        bytes += text.len();
        let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
        for member in members.filter(|member| !member.is_empty()) {
            let (key, value) = member.split_once('=')?;
            if pairs.iter().any(|(other, _)| *other == key) {
                return None;
            }
            pairs.push((key, value));
        }
    }
    if pairs.is_empty() || pairs.len() > 32 || bytes > MAX_STATE_BYTES {
        return None;
    }
    TraceState::from_key_value(pairs).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn fields(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_good_parent_is_passed_on_as_it_came() {
        let state = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7";
        let came = fields(&[("traceparent", GOOD), ("tracestate", state)]);
        let context = read(&came).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        let mut sent = HeaderMap::new();
        write(&context, &mut sent);
        assert_eq!(sent, came);
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        for good in [
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-then",
        ] {
            assert!(read(&fields(&[("traceparent", good)])).is_some(), "{good}");
        }
        let unknown_flags = GOOD.replace("-01", "-ff");
        let mut sent = HeaderMap::new();
        write(&read(&fields(&[("traceparent", &unknown_flags)])).unwrap(), &mut sent);
        assert_eq!(sent["traceparent"], GOOD.replace("-01", "-03"));
    }

    #[test]
    fn a_malformed_context_is_no_parent() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-01 ",
        ] {
            assert_eq!(read(&fields(&[("traceparent", bad)])), None, "{bad:?}");
        }
        assert_eq!(read(&fields(&[("traceparent", GOOD), ("traceparent", GOOD)])), None);
        assert_eq!(read(&fields(&[("tracestate", "a=b")])), None);
    }

    #[test]
    fn several_states_are_one_list_and_a_bad_one_is_left_out() {
        let parent = ("traceparent", GOOD);
        let state = |all: &[(&'static str, &str)]| {
            let all: Vec<_> = std::iter::once(parent).chain(all.iter().copied()).collect();
            read(&fields(&all)).unwrap().trace_state().header()
        };
        assert_eq!(
            state(&[("tracestate", "a=1, b=2,"), ("tracestate", "c=3")]),
            "a=1,b=2,c=3"
        );
        let many: Vec<_> = (0..33).map(|n| format!("k{n}=v")).collect();
        let long = format!("a={}", "x".repeat(2000));
        for bad in ["a", "A=1", "a=1,a=2", "a=b=c", "", &many.join(","), &long] {
            assert_eq!(state(&[("tracestate", bad)]), "", "{bad}");
        }
    }
}
