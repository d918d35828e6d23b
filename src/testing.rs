//! What integration tests, benches and fuzz targets use of the rooms. Everything else is known to
//! this crate only, so that the compiler tells what nobody uses.

pub use crate::BoxError;
pub use ::sim;
pub mod app {
    pub use crate::app::{Applied, ConfigSource, Ended, Gateway, HostEnvironment, ReloadError, Reloader};
}
pub mod attempt {
    pub use crate::attempt::{
        Attempt, Charged, Delivery, Failure, FlowDemand, LateBoundRequest, QueuePosition, Retries, RetryHint, Scarcity,
    };
}
pub mod cache {
    pub use crate::cache::{Cache, Config, Layer, Metrics};
}
pub mod caller {
    pub use crate::caller::{CacheDirectives, Caller, Name, RequestId, Urgency};
}
pub mod clock {
    pub use crate::clock::{BootTime, Reading, Wall};
}
pub mod config {
    pub use crate::config::{
        Cloud, DefaultValue, Disk, Document, Environment, Files, Found, Key, Kind, Loaded, Merging, Mistakes, Origin,
        Reload, Resolved, TrustedRoots, keys, parse, parse_duration, parse_size, reference, schema, show_duration,
        show_size, variable,
    };
}
pub mod memory {
    pub use crate::memory::{BASE, CONNECTION, LEAST_TOTAL, Shares};
}
pub mod middleware {
    pub use crate::middleware::{Next, layer};
}
pub mod net {
    pub use crate::net::{Client, Config, Connector, Limits, Resolver};
}
pub mod operation {
    pub use crate::operation::{Input, Kept, Lifetime};
}
pub mod queue {
    pub use crate::queue::{
        CallerLimiter, Config, FairScheduler, Metrics, PermitSource, Queue, Reason, Refused, Ticket, Weights,
    };
}
pub mod quota {
    pub use crate::quota::{
        Charging, Config, Forecast, Ledger, Limit, Metrics, Pacing, Permit, Quota, QuotaState, StateFile, ThrottleHint,
        UnknownPast,
    };
    pub mod shared {
        pub use crate::quota::shared::{Config, Metrics, Protocol, SyncReply, Timing};
    }
}
pub mod region {
    pub use crate::region::{Backoff, Candidate, Config, HostSelector, Metrics, Probe};
}
pub mod response {
    pub use crate::response::{Answered, Body, Config, Layer, Reply, ResponsePreferences, Window, Windows};
}
pub mod scan {
    pub use crate::scan::{
        CacheSink, Call, CallerToken, Endpoint, Headers, MergeFinding, MergeRecord, Merging, Operation, Options,
        Outcome, ParseError, Payer, Request, Rows, ServedResponse, SplitError, Status, TokenOwner, UpstreamProfile,
        UpstreamResponse, route,
    };
}
pub mod secret {
    pub use crate::secret::Secret;
}
pub mod server {
    pub use crate::server::{Address, InboundRequest, Peer, access_log, route};
    pub mod guard {
        pub use crate::server::guard::{Guard, Hosts};
    }
    pub mod read {
        pub use crate::server::read::{Authorization, Config, Layer};
    }
}
pub mod shared_cache {
    pub use crate::shared_cache::{
        Config, DecodeError, InsertLocal, Metrics, Name, Publisher, SharedCache, Snapshot, StoreTime, StoredResponse,
    };
}
pub mod single_flight {
    pub use crate::single_flight::{BatchConfig, Config, Metrics, PredictedWait, SingleFlight};
}
pub mod store {
    pub use crate::store::{Address, Client, Config, Error, Event, Script};
}
pub mod task {
    pub use crate::task::Tasks;
}
pub mod telemetry {
    pub mod trace {
        pub use crate::telemetry::trace::{TRACEPARENT, TRACESTATE, Trace, read, write};
    }
}
pub mod token {
    pub use crate::token::{
        App, CertificateFiles, Config, Credential, Error, Identity, IdentityHost, Metrics, Scope, SecretSource,
        TokenSource,
    };
}
pub mod upstream {
    pub use crate::upstream::Retry;
}
