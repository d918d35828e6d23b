//! The operations: what callers may ask, and what the upstream is asked. Nothing else ever leaves.
//!
//! Each operation is declared once, in a file of its own beside this one. Routing, the request to the upstream, the key, how answers are
//! kept and merged, metric labels, the `OpenAPI` document, the table in the README, the simulator and the tests that run over every
//! operation follow from the declaration. A new operation is a new file and its line in the list below.
//!
//! Pure: no I/O, no clock. Invariant: the path of a request to the upstream is written from a declaration, never copied from a caller.

mod declaration;
mod endpoint;
mod entity_id;

pub use declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};
pub use endpoint::{Endpoint, Target, Version, route};
pub use entity_id::EntityId;

/// Declares the operations: the name in code, and the file of the declaration.
macro_rules! operations {
    ($($name:ident: $file:ident,)*) => {
        $(mod $file;)*

        /// An operation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $(
                #[doc = concat!("See `operation/", stringify!($file), ".rs`.")]
                $name,
            )*
        }

        impl Operation {
            /// All of them, in the order of their discriminants.
            pub const ALL: [Self; [$(stringify!($name)),*].len()] = [$(Self::$name),*];

            /// What there is to know about it.
            #[must_use]
            pub const fn declaration(self) -> &'static Declaration {
                match self {
                    $(Self::$name => &$file::DECLARATION,)*
                }
            }
        }
    };
}

operations! {
    HistoryByDefinition: history_by_definition,
    HistoryBySession: history_by_session,
    Definitions: definitions,
    Definition: definition,
    Agents: agents,
    Agent: agent,
}

#[cfg(test)]
mod tests;
