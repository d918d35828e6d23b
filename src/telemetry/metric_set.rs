//! Structs of metrics that belong together.

/// Declares a struct of metrics, each with its name; its doc comment is its help text. They are
/// registered by `register_in`, in their order.
///
/// ```text
/// metric_set! {
///     /// What the queue reports.
///     #[derive(Clone, Debug, Default)]
///     pub struct Metrics {
///         /// Requests that wait for a slot of the quota
///         pub(super) waiting: Gauge = "queue_waiting",
///     }
/// }
/// ```
macro_rules! metric_set {
    (
        $(#[$meta:meta])*
        $vis:vis struct $set:ident {
            $($(#[doc = $help:literal])+ $field_vis:vis $field:ident: $metric:ty = $name:literal,)+
        }
    ) => {
        $(#[$meta])*
        $vis struct $set {
            $($(#[doc = $help])+ $field_vis $field: $metric,)+
        }

        impl $set {
            fn register_in(&self, registry: &mut prometheus_client::registry::Registry) {
                $(registry.register($name, concat!($($help),+).trim_start(), self.$field.clone());)+
            }
        }
    };
}

pub(crate) use metric_set;
