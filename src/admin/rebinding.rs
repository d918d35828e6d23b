//! Names in `Host` that a web page may have had pointed here, so that a browser takes this address
//! for the page's own (DNS rebinding).

use http::{HeaderMap, HeaderName, header};

use crate::server::Peer;
use crate::server::guard::Host;

/// Whether a request for `host`, which is none of the gateway's names, may come from such a page.
///
/// A rebound page needs a name: addresses are good. Probes and scrapers of other machines use
/// whatever name the cluster or their list of targets gives this one, and are no browsers. On this
/// machine nobody needs a foreign name.
pub(super) fn is_forbidden(host: &Host, fields: &HeaderMap, peer: Option<&Peer>) -> bool {
    match host {
        Host::Ip(_) => false,
        Host::Name(_) => peer.is_none_or(|peer| peer.is_local() && !peer.is_unix()) || is_browser(fields),
    }
}

/// Whether a request for a bare probe's word may be answered whatever host it names: the word is of
/// no use to a page, and load balancers name what they please. On this machine they have to look
/// like one, because there a page's browser is the likelier guest.
pub(super) fn may_probe(fields: &HeaderMap, peer: Option<&Peer>) -> bool {
    let far = peer.is_some_and(|peer| !peer.is_local());
    far || (fields.contains_key(header::USER_AGENT) && !is_browser(fields))
}

/// Browsers say so in at least one of these. `Sec-Fetch-Site` and its kin are sent to trustworthy
/// addresses only, which a rebound name is not.
fn is_browser(fields: &HeaderMap) -> bool {
    const UPGRADE: HeaderName = HeaderName::from_static("upgrade-insecure-requests");
    const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
    let said = [header::ORIGIN, header::REFERER, header::ACCEPT_LANGUAGE, UPGRADE, SITE];
    let agent = fields
        .get(header::USER_AGENT)
        .map_or(&b""[..], |agent| agent.as_bytes());
    said.iter().any(|name| fields.contains_key(name)) || agent.starts_with(b"Mozilla/")
}
