//! The whole HTTP side over real sockets, with a service of the test's own where the typed stack would be; and, under paused time, how long a connection may do what (`connection_state`).

mod connection_state;
mod drain;
mod http1;
mod http2;
mod limit;
mod support;
