//! Sharing, through the whole gateway: what is cached, joined, merged or put together is what each
//! caller would have got alone.

mod auto;
mod charges;
mod differential;
mod fewest;
mod mix;
mod outage;
mod reference;
mod saturated;
mod stack_fixture;
mod waiting;
