//! The quota and the queue together: days in virtual time, judged by what arrives at the upstream
//! and nothing else.
//!
//! The stack is the gateway's own paid half, from the retry layer to the quota layer; in place of
//! the region, the token and the client stands an [`upstream`] that keeps a diary. Everything is
//! seeded: the same table on every machine.

mod case;
mod counting;
mod day;
mod fairness;
mod feedback;
mod noise;
mod overload;
mod prediction;
mod upstream;
mod world;
