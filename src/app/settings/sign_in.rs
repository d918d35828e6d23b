//! Whose token the gateway has, how it is obtained, and the ways to sign in; among them the one to
//! the token proxy of AKS, which has its own certificate authority and server name.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tower::util::BoxCloneSyncService;

use crate::config::{Credentials, TokenProxy, TrustedRoots};
use crate::net::{Client, Exchange, Limits};
use crate::{BoxError, token};

/// Longest token exchange on a ready connection. Sign-in answers in well under a second; eight cover
/// a bad day and keep callers from waiting in vain. They end before the ten seconds after which the
/// token source gives up, so that the client itself sees which connection brought no answer, and
/// takes another address.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(8);

/// Largest sign-in answer. A token has a few kB.
const SIGN_IN_BYTES: usize = 256 * 1024;

pub(in crate::app) fn token(config: &Credentials) -> token::Config {
    token::Config {
        credential: config.credential.clone(),
        scope: token::Scope::new(&config.scope),
    }
}

/// Far above any bundle of certificates.
const MAX_CA_BYTES: u64 = 1024 * 1024;

/// The ways to sign in: to the authority, or the proxy in its place, and to the metadata service of
/// the machine, which is never behind a proxy.
pub(in crate::app) fn exchanges(net: &Client, config: &Credentials) -> [Exchange; 2] {
    let to = |net: &Client| net.exchange(SIGN_IN_BYTES, SIGN_IN_TIMEOUT);
    let authority = config.token_proxy.as_ref();
    let authority = authority.map_or_else(|| to(net), |proxy| exchange(net, proxy));
    [authority, to(&net.direct())]
}

/// Reaches the proxy over connections made anew for every request: requests are an hour apart, and
/// the CA file is rotated by the cluster.
fn exchange(net: &Client, proxy: &TokenProxy) -> Exchange {
    let (net, proxy) = (net.clone(), proxy.clone());
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Bytes>| {
        let (net, proxy) = (net.clone(), proxy.clone());
        async move {
            let roots = roots(&proxy.roots).await?;
            let client = net.for_peer(roots.as_deref(), proxy.server_name.as_deref())?;
            let limits = Limits {
                head: SIGN_IN_TIMEOUT,
                whole: SIGN_IN_TIMEOUT,
                body_bytes: SIGN_IN_BYTES,
            };
            client.send(request, limits).await.map_err(BoxError::from)
        }
    }))
}

/// The PEM text of what is trusted; `None`: the built-in roots.
async fn roots(roots: &TrustedRoots) -> Result<Option<Vec<u8>>, BoxError> {
    let path = match roots {
        TrustedRoots::BuiltIn => return Ok(None),
        TrustedRoots::Pem(text) => return Ok(Some(text.clone().into_bytes())),
        TrustedRoots::File(path) => path,
    };
    let unusable =
        |cause: std::io::Error| format!("the token proxy's CA file {} cannot be read: {cause}", path.display());
    let metadata = tokio::fs::metadata(path).await.map_err(unusable)?;
    if !metadata.is_file() || metadata.len() > MAX_CA_BYTES {
        return Err(unusable(std::io::Error::other("not a file of at most 1 MiB")).into());
    }
    Ok(Some(tokio::fs::read(path).await.map_err(unusable)?))
}
