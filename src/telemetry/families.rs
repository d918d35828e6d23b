//! Brings the samples of one metric family together.
//!
//! A registry with the same metric below several constant labels writes the family once for each.
//! Both text formats allow a family only once (`OpenMetrics` 1.0, "MetricFamily": names are unique,
//! and the samples of one are not interleaved).

use std::collections::HashMap;

/// The end marker of `OpenMetrics`.
const END: &str = "# EOF";

/// `openmetrics` with each family once, in the order in which they first come.
pub(super) fn grouped(openmetrics: &str) -> String {
    let mut families: Vec<String> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let (mut current, mut is_repeated) = (0, false);
    for line in openmetrics.lines().filter(|line| *line != END) {
        let comment = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        if let Some((kind, rest)) = comment {
            if kind == "HELP" {
                let name = rest.split(' ').next().unwrap_or(rest);
                is_repeated = known.contains_key(name);
                current = *known.entry(name).or_insert(families.len());
            }
            if is_repeated {
                continue;
            }
        }
        if families.len() <= current {
            families.resize_with(current + 1, String::new);
        }
        families[current].extend([line, "\n"]);
    }
    let end = openmetrics.ends_with("# EOF\n").then(|| format!("{END}\n"));
    families.into_iter().chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::registry::Registry;

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
            grouped(&openmetrics),
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
            assert_eq!(grouped(text), text);
        }
    }
}
