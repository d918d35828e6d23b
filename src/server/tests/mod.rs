//! Tests of the whole HTTP side over real sockets, with a service of the test in place of the typed
//! stack; and, under paused time, of a connection's timeouts (`connection_state`).

mod connection_state;
mod drain;
mod http1;
mod http2;
mod limit;
mod openapi;
mod support;
