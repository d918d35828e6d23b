//! The endpoint of a managed identity's tokens. It is never reached through a proxy.

use http::HeaderValue;
use url::Url;

use crate::config::config_error::Origin;
use crate::config::env::variable;
use crate::config::reader::{Read, Reader, Recorded};
use crate::config::value::address;
use crate::token::IdentityHost;

/// App Service sets two variables, by which it is recognised.
pub(super) fn app_service_origin(reader: &Reader<'_>) -> Option<Origin> {
    reader.env.value(variable::IDENTITY_ENDPOINT)?;
    reader.env.value(variable::IDENTITY_HEADER)?;
    Some(Origin::Variable(variable::IDENTITY_ENDPOINT.into()))
}

pub(super) fn read(reader: &mut Reader<'_>) -> Read<IdentityHost> {
    let header = reader.env.value(variable::IDENTITY_HEADER).cloned();
    let endpoint = reader.env.value(variable::IDENTITY_ENDPOINT).cloned();
    match (endpoint, header) {
        (Some(endpoint), Some(header)) => {
            let endpoint = local(reader, variable::IDENTITY_ENDPOINT, endpoint.expose())?;
            if HeaderValue::from_str(header.expose()).is_err() {
                let problem = "holds a line break or another character that cannot be sent";
                return Err(wrong(reader, variable::IDENTITY_HEADER, problem));
            }
            Ok(IdentityHost::AppService { endpoint, header })
        }
        (Some(_), None) => {
            let problem =
                "is set without IDENTITY_HEADER, as Azure Arc does, which is not supported; use a certificate there";
            Err(wrong(reader, variable::IDENTITY_ENDPOINT, problem))
        }
        (None, _) => {
            let name = variable::POD_IDENTITY_AUTHORITY_HOST;
            let text = reader.env.value(name).map(|value| value.expose().to_owned());
            let text = text.as_deref().unwrap_or(IdentityHost::IMDS);
            let address = local(reader, name, text.trim_end_matches('/'))?;
            Ok(IdentityHost::Imds { address })
        }
    }
}

/// The identity's token is returned in clear text, so the address must not leave the machine:
/// loopback, link-local, or `https`.
fn local(reader: &mut Reader<'_>, name: &str, text: &str) -> Read<Url> {
    let is_safe = |url: &Url| match url.scheme() {
        "https" => true,
        "http" => address::is_loopback(url) || address::is_link_local(url),
        _ => false,
    };
    address::plain(text)
        .and_then(|url| {
            let is_safe = is_safe(&url);
            is_safe
                .then_some(url)
                .ok_or_else(|| "is neither https nor on this machine".into())
        })
        .map_err(|problem| wrong(reader, name, format!("the address {problem}")))
}

/// Records an error about the variable `name`, which only some kinds of credential use.
pub(super) fn wrong(reader: &mut Reader<'_>, name: &str, problem: impl Into<String>) -> Recorded {
    reader.wrong_at(Origin::Variable(name.into()), "credentials.kind", problem)
}
