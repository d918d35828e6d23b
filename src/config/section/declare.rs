//! How keys are declared: once, with everything about them.

/// Declares the keys of a section in a module `key`, each by its own name, and the `SECTION` with
/// all of them. The doc comment of a key is its text in the reference.
macro_rules! keys {
    ($section:literal, $about:literal; $($(#[doc = $doc:literal])+ $name:ident = $key:expr;)+) => {
        pub(in crate::config) static SECTION: $crate::config::key::Section = $crate::config::key::Section {
            name: $section,
            doc: $about,
            keys: &[$(&key::$name),+],
        };

        #[allow(non_upper_case_globals, reason = "each key is found by its own name")]
        pub(in crate::config) mod key {
            use super::*;

            $(pub(in crate::config) static $name: Key = $key.named($section, stringify!($name), concat!($($doc),+));)+
        }
    };
}

/// Declares a section: its keys as [`keys`] does, each with the type of its value and the function
/// that reads it, and the struct of the values, which has a `read`.
///
/// ```text
/// section! {
///     #[derive(Clone, Debug, PartialEq, Eq)]
///     pub struct Cache: "cache", "answers kept in memory";
///
///     /// How long an answer is fresh; `0s` turns the cache off.
///     ttl: Duration = Key::duration(Duration::ZERO, DAY, "30s").live() => Reader::duration;
/// }
/// ```
///
/// A value that depends on another key reads that one, too; a mistake found twice is reported once.
macro_rules! section {
    (
        $(#[$meta:meta])*
        pub struct $Values:ident: $section:literal, $about:literal;
        $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $key:expr => $read:expr;)+
    ) => {
        keys! { $section, $about; $($(#[doc = $doc])+ $name = $key;)+ }

        #[doc = concat!("The values of `[", $section, "]`: ", $about, ".")]
        $(#[$meta])*
        pub struct $Values {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl $Values {
            /// Every key is read, even after one has failed, so that all errors are reported.
            pub(in crate::config) fn read(reader: &mut Reader<'_>) -> $crate::config::reader::Read<Self> {
                $(let $name = reader.field(&key::$name, $read);)+
                Ok(Self { $($name: $name?),+ })
            }
        }
    };
}

pub(super) use {keys, section};
