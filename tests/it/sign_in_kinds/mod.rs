//! Sign-in, from the outside: the whole gateway against the simulator, over real sockets, with each
//! kind of credential.

mod expiry;
mod failure;
mod front;
mod gateway;
mod kind;
mod outage;
mod rotation;
mod secrecy;
mod third_party;
mod token_proxy;

const CERTIFICATE: &str = include_str!("../../data/sim/app-cert.pem");
const KEY: &str = include_str!("../../data/sim/app-key.pem");
const CERTIFICATE_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sim/app-cert.pem");
const KEY_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/sim/app-key.pem");
