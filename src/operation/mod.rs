//! The operations: what callers may ask, and what the upstream is asked. Nothing else ever leaves.
//!
//! Each operation is declared once, in a file beside this one. Routing, the request to the
//! upstream, the key, how answers are kept and merged, metric labels, the `OpenAPI` document, the
//! table in `deploy/api.md`, the simulator and the tests that run over every operation follow from
//! the declaration. A new operation is a declaration and its line in the list below.
//!
//! Pure: no I/O, no clock. Invariant: the path of a request to the upstream is written from a
//! declaration, never copied from a caller.

mod agents;
mod declaration;
mod definitions;
pub mod endpoint;
mod entity_id;
mod history_by_definition;
mod history_by_session;

pub use declaration::{Declaration, Input, Kept, Lifetime, Query, Shape};
pub use endpoint::{Endpoint, Target, route};
pub use entity_id::EntityId;

/// Declares the operations: the name in code, and the declaration.
macro_rules! operations {
    ($($name:ident: $file:ident::$declaration:ident,)*) => {
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
            pub const fn declaration(self) -> &'static Declaration {
                match self {
                    $(Self::$name => &$file::$declaration,)*
                }
            }
        }
    };
}

operations! {
    HistoryByDefinition: history_by_definition::DECLARATION,
    HistoryBySession: history_by_session::DECLARATION,
    Definitions: definitions::LIST,
    Definition: definitions::ONE,
    Agents: agents::LIST,
    Agent: agents::ONE,
}

#[cfg(test)]
mod tests;
