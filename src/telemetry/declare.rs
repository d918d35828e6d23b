//! How the metrics of a part are declared, once, with everything about them; and enums whose
//! variants have names in metrics, logs, JSON and the configuration.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelValue, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Declares the struct with a part's metrics, its `Default`, and `register`, which adds them to a
/// registry. The doc comment of a metric is its help text. A type that needs more than `default()`
/// says how it is made, and what is `collector` computes its metrics when somebody scrapes. A field
/// without a name is not exported.
///
/// ```text
/// metrics! {
///     /// What the queue reports.
///     #[derive(Clone, Debug)]
///     pub struct Metrics {
///         /// Requests that wait for a slot of the quota.
///         waiting: Gauge = "queue_waiting",
///         /// Requests refused because of the quota.
///         refused: Counters<Reason> = "queue_refused" => by("reason"),
///         /// How long requests waited for a slot.
///         wait: Histogram = "queue_wait" in Seconds => new(WAIT_BUCKETS),
///         sizes: Sizes = collector,
///         recent: RecentCalls,
///     }
/// }
/// ```
macro_rules! metrics {
    (
        $(#[$meta:meta])*
        $vis:vis struct $Metrics:ident {
            $(
                $(#[doc = $doc:literal])*
                $field_vis:vis $field:ident: $type:ty
                $(= $name:literal $(in $unit:ident)? $(=> $make:ident($argument:expr))?)?
                $(= $collector:ident)?,
            )+
        }
    ) => {
        $(#[$meta])*
        #[allow(clippy::doc_markdown, reason = "help is plain text")]
        $vis struct $Metrics {
            $($(#[doc = $doc])* $field_vis $field: $type,)+
        }

        impl Default for $Metrics {
            fn default() -> Self {
                Self {
                    $($field: $crate::telemetry::metrics!(@new $type $($(, $make($argument))?)?),)+
                }
            }
        }

        impl $Metrics {
            /// Adds the metrics to `registry`.
            $vis fn register(registry: &mut prometheus_client::registry::Registry) -> Self {
                let metrics = Self::default();
                $($crate::telemetry::metrics!(
                    @export registry, metrics.$field, [$($doc),*] $(= $name $(in $unit)?)? $(= $collector)?
                );)+
                metrics
            }
        }
    };
    (@new $type:ty) => { <$type>::default() };
    (@new $type:ty, $make:ident($argument:expr)) => { <$type>::$make($argument) };
    (@help $($doc:literal),*) => { concat!($($doc),*).trim_start().trim_end_matches('.') };
    (@export $registry:ident, $metric:expr, [$($doc:literal),*]) => {};
    (@export $registry:ident, $metric:expr, [$($doc:literal),*] = collector) => {
        $registry.register_collector(Box::new($metric.clone()))
    };
    (@export $registry:ident, $metric:expr, [$($doc:literal),*] = $name:literal) => {
        $registry.register($name, $crate::telemetry::metrics!(@help $($doc),*), $metric.clone())
    };
    (@export $registry:ident, $metric:expr, [$($doc:literal),*] = $name:literal in $unit:ident) => {
        $registry.register_with_unit(
            $name,
            $crate::telemetry::metrics!(@help $($doc),*),
            prometheus_client::registry::Unit::$unit,
            $metric.clone(),
        )
    };
}

pub(crate) use metrics;

/// The values of a label, declared by [`named_enum!`](super::named_enum!).
pub(crate) trait LabelValue: Copy + fmt::Debug + EncodeLabelValue + Send + Sync + 'static {
    /// All of them, in their order.
    const VALUES: &'static [Self];

    /// The place in this order.
    fn index(self) -> usize;
}

/// A metric for each value of a label. All are there from the start: a counter that first appears
/// with the value 1 hides that increase from `increase()`. Clones share the values.
#[derive(Clone, Debug)]
pub(crate) struct ByLabel<V, M> {
    label: &'static str,
    metrics: Arc<[M]>,
    values: PhantomData<V>,
}

pub(crate) type Counters<V> = ByLabel<V, Counter>;
pub(crate) type Gauges<V> = ByLabel<V, Gauge>;

impl<V: LabelValue, M: Default> ByLabel<V, M> {
    /// Metrics with this label.
    pub(crate) fn by(label: &'static str) -> Self {
        Self {
            label,
            metrics: V::VALUES.iter().map(|_| M::default()).collect(),
            values: PhantomData,
        }
    }

    /// The metric of `value`.
    pub(crate) fn of(&self, value: V) -> &M {
        &self.metrics[value.index()]
    }
}

impl<V: LabelValue, M: EncodeMetric + TypedMetric + Default> EncodeMetric for ByLabel<V, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for value in V::VALUES {
            self.of(*value)
                .encode(encoder.encode_family(&[(self.label, *value)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// Declares an enum with the name of each variant; the names are told by the method given, and all
/// variants are listed in `ALL`, their names in `NAMES`, in their order.
///
/// ```text
/// named_enum! {
///     /// How it ended.
///     #[derive(Clone, Copy, Debug)]
///     pub enum Outcome, as_str {
///         /// Well.
///         Good = "good",
///         /// With an error.
///         Bad = "bad",
///     }
/// }
/// ```
macro_rules! named_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $enum:ident, $method:ident {
            $($(#[$doc:meta])* $variant:ident = $name:literal,)+
        }
    ) => {
        $(#[$meta])*
        $vis enum $enum {
            $($(#[$doc])* $variant,)+
        }

        impl $enum {
            /// All of them, in their order.
            #[allow(dead_code, reason = "not all that have names are listed")]
            $vis const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Their names, in the same order.
            #[allow(dead_code, reason = "not all that have names are listed")]
            $vis const NAMES: [&'static str; Self::ALL.len()] = [$($name),+];

            /// The name in metrics, logs, JSON and the configuration.
            $vis const fn $method(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        impl $crate::telemetry::LabelValue for $enum {
            const VALUES: &'static [Self] = &Self::ALL;

            fn index(self) -> usize {
                self as usize
            }
        }

        impl prometheus_client::encoding::EncodeLabelValue for $enum {
            fn encode(
                &self,
                encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> Result<(), std::fmt::Error> {
                prometheus_client::encoding::EncodeLabelValue::encode(&self.$method(), encoder)
            }
        }
    };
}

pub(crate) use named_enum;

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;

    use super::*;

    named_enum! {
        #[derive(Clone, Copy, Debug)]
        enum Outcome, as_str {
            Good = "good",
            Bad = "bad",
        }
    }

    metrics! {
        #[derive(Clone, Debug)]
        struct Metrics {
            /// How full it is, told in
            /// two lines.
            level: Gauge = "level",
            /// How it ended.
            ended: Counters<Outcome> = "ended" => by("result"),
            /// How long it took.
            took: Histogram = "took" in Seconds => new([1.0]),
            /// Not exported.
            private: u8,
        }
    }

    #[test]
    fn what_is_declared_is_exported_and_every_value_from_the_start() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.level.set(7 + i64::from(metrics.private));
        metrics.ended.of(Outcome::Bad).inc();
        metrics.took.observe(0.5);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert_eq!(
            text,
            "# HELP level How full it is, told in two lines.\n\
             # TYPE level gauge\n\
             level 7\n\
             # HELP ended How it ended.\n\
             # TYPE ended counter\n\
             ended_total{result=\"good\"} 0\n\
             ended_total{result=\"bad\"} 1\n\
             # HELP took_seconds How long it took.\n\
             # TYPE took_seconds histogram\n\
             # UNIT took_seconds seconds\n\
             took_seconds_sum 0.5\n\
             took_seconds_count 1\n\
             took_seconds_bucket{le=\"1.0\"} 1\n\
             took_seconds_bucket{le=\"+Inf\"} 1\n\
             # EOF\n"
        );
    }
}
