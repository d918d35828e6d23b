//! The text formats of metrics.
//!
//! A registry with the same metric below several constant labels writes the family once for each.
//! Both formats allow a family only once (`OpenMetrics` 1.0, "MetricFamily": names are unique, and
//! the samples of one are not interleaved).
//!
//! The older Prometheus format has the same samples and other comments: `OpenMetrics` names a
//! counter's family without `_total`, which the older format would read as a family without samples
//! beside an untyped one. Units and the end marker do not exist there.

use std::collections::HashMap;

use super::metrics::Exposition;

/// The end marker of `OpenMetrics`.
const END: &str = "# EOF";

/// A family as `OpenMetrics` declares it, and the lines of its samples.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    kind: &'a str,
    unit: Option<&'a str>,
    samples: String,
}

/// `openmetrics` in this format, with each family once, in the order in which they first come.
/// Exemplars are not handled, because there are none.
pub(super) fn written(openmetrics: &str, exposition: Exposition) -> String {
    let mut text = String::with_capacity(openmetrics.len() + 256);
    for family in families(openmetrics) {
        let Family { name, help, unit, .. } = family;
        let (suffix, kind, unit) = match (exposition, family.kind) {
            (Exposition::OpenMetrics, kind) => ("", kind, unit),
            (Exposition::Text, "counter") => ("_total", "counter", None),
            (Exposition::Text, "info") => ("_info", "gauge", None),
            (Exposition::Text, "unknown") => ("", "untyped", None),
            (Exposition::Text, kind) => ("", kind, None),
        };
        if !name.is_empty() {
            text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        }
        if let Some(unit) = unit {
            text.extend(["# UNIT ", name, " ", unit, "\n"]);
        }
        text.push_str(&family.samples);
    }
    if exposition == Exposition::OpenMetrics && openmetrics.ends_with("# EOF\n") {
        text.extend([END, "\n"]);
    }
    text
}

fn families(openmetrics: &str) -> Vec<Family<'_>> {
    // Samples before any family would stay without one.
    let mut families = vec![Family::default()];
    let mut known = HashMap::new();
    let mut current = 0;
    for line in openmetrics.lines().filter(|line| *line != END) {
        let mut words = line.splitn(4, ' ');
        let comment = [words.next(), words.next(), words.next()];
        let rest = words.next().unwrap_or_default();
        match comment {
            [Some("#"), Some("HELP"), Some(name)] => {
                current = *known.entry(name).or_insert(families.len());
                if current == families.len() {
                    families.push(Family {
                        name,
                        help: rest,
                        ..Family::default()
                    });
                }
            }
            [Some("#"), Some("TYPE"), _] => families[current].kind = rest,
            [Some("#"), Some("UNIT"), _] => families[current].unit = Some(rest),
            _ => families[current].samples.extend([line, "\n"]),
        }
    }
    families
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::{Registry, Unit};

    #[test]
    fn a_family_below_several_labels_is_declared_once() {
        let mut registry = Registry::with_prefix("x");
        for operation in ["a", "b"] {
            let below = registry.sub_registry_with_label(("operation".into(), operation.into()));
            below.register("calls", "Calls made", Counter::<u64>::default());
            below.register("waits", "Waits", Counter::<u64>::default());
        }
        let mut openmetrics = String::new();
        prometheus_client::encoding::text::encode(&mut openmetrics, &registry).unwrap();
        assert_eq!(
            written(&openmetrics, Exposition::OpenMetrics),
            "# HELP x_calls Calls made.\n\
             # TYPE x_calls counter\n\
             x_calls_total{operation=\"a\"} 0\n\
             x_calls_total{operation=\"b\"} 0\n\
             # HELP x_waits Waits.\n\
             # TYPE x_waits counter\n\
             x_waits_total{operation=\"a\"} 0\n\
             x_waits_total{operation=\"b\"} 0\n\
             # EOF\n"
        );
    }

    #[test]
    fn what_has_each_family_once_stays_as_it_is() {
        for text in [
            "",
            "# EOF\n",
            "# HELP a A.\n# TYPE a gauge\na{b=\"# HELP c\"} 1\n# EOF\n",
        ] {
            assert_eq!(written(text, Exposition::OpenMetrics), text);
        }
    }

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
            written(&openmetrics, Exposition::Text),
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
            written("a{b=\"# TYPE c counter\"} 1\n# EOF\n", Exposition::Text),
            "a{b=\"# TYPE c counter\"} 1\n"
        );
    }
}
