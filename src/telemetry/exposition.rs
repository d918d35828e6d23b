//! Converts `OpenMetrics` to the older Prometheus text format.
//!
//! The samples are the same, but the comments are not: `OpenMetrics` names a counter's family
//! without `_total`, which the older format would read as a family without samples beside an
//! untyped one. Units and the end marker do not exist there.

/// `openmetrics` as Prometheus text 0.0.4. Exemplars are not handled, because there are none.
pub(super) fn prometheus(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 256);
    // HELP comes before TYPE, and only TYPE says whether the name must change.
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            family(&mut text, help.take(), rest);
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn family(text: &mut String, help: Option<&str>, rest: &str) {
    let (name, kind) = rest.split_once(' ').unwrap_or((rest, "unknown"));
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "info" => ("_info", "gauge"),
        "unknown" => ("", "untyped"),
        other => ("", other),
    };
    if let Some(words) = help.and_then(|help| help.strip_prefix(name)) {
        text.extend(["# HELP ", name, suffix, words, "\n"]);
    }
    text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::{Registry, Unit};

    #[test]
    fn counters_are_declared_under_the_name_of_their_samples() {
        let mut registry = Registry::with_prefix("x");
        let counter = Counter::<u64>::default();
        counter.inc();
        registry.register("calls", "Calls made", counter);
        registry.register_with_unit("age", "How old", Unit::Seconds, Gauge::<i64>::default());
        let histogram = Histogram::new([0.5]);
        histogram.observe(0.1);
        registry.register("took_seconds", "How long", histogram);
        let mut openmetrics = String::new();
        prometheus_client::encoding::text::encode(&mut openmetrics, &registry).unwrap();
        assert_eq!(
            prometheus(&openmetrics),
            "# HELP x_calls_total Calls made.\n\
             # TYPE x_calls_total counter\n\
             x_calls_total 1\n\
             # HELP x_age_seconds How old.\n\
             # TYPE x_age_seconds gauge\n\
             x_age_seconds 0\n\
             # HELP x_took_seconds How long.\n\
             # TYPE x_took_seconds histogram\n\
             x_took_seconds_sum 0.1\n\
             x_took_seconds_count 1\n\
             x_took_seconds_bucket{le=\"0.5\"} 1\n\
             x_took_seconds_bucket{le=\"+Inf\"} 1\n"
        );
    }

    #[test]
    fn a_label_value_that_looks_like_a_comment_stays_a_sample() {
        assert_eq!(
            prometheus("a{b=\"# TYPE c counter\"} 1\n# EOF\n"),
            "a{b=\"# TYPE c counter\"} 1\n"
        );
    }
}
