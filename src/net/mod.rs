//! Connections to the outside: TLS, proxies, name resolution, and the pooled client that upstream and sign-in share.

use bytes::Bytes;
use tower::util::BoxCloneSyncService;

use crate::BoxError;

/// One HTTP exchange with whole, bounded bodies: what sign-in needs, and what its tests replace.
pub type Exchange = BoxCloneSyncService<http::Request<Bytes>, http::Response<Bytes>, BoxError>;
