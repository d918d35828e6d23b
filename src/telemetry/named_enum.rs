//! Enums whose variants have names in metrics, logs, JSON and the configuration.

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
