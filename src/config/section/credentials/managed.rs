//! The endpoint of a managed identity's tokens. It is never reached through a proxy.

use url::Url;

use crate::config::config_error::Origin;
use crate::config::env::variable;
use crate::config::reader::Reader;
use crate::config::value::address;
use crate::token::IdentityHost;

/// App Service sets two variables, by which it is recognised.
pub(super) fn app_service_origin(reader: &Reader<'_>) -> Option<Origin> {
    reader.env.value(variable::IDENTITY_ENDPOINT)?;
    reader.env.value(variable::IDENTITY_HEADER)?;
    Some(Origin::Variable(variable::IDENTITY_ENDPOINT.into()))
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<IdentityHost> {
    let header = reader.env.value(variable::IDENTITY_HEADER).cloned();
    let endpoint = reader.env.value(variable::IDENTITY_ENDPOINT).cloned();
    match (endpoint, header) {
        (Some(endpoint), Some(header)) => {
            let endpoint = local(reader, variable::IDENTITY_ENDPOINT, endpoint.expose())?;
            Some(IdentityHost::AppService { endpoint, header })
        }
        (Some(_), None) => {
            let origin = Origin::Variable(variable::IDENTITY_ENDPOINT.into());
            let problem =
                "is set without IDENTITY_HEADER, as Azure Arc does, which is not supported; use a certificate there";
            reader.wrong_at(origin, "credentials.kind", problem);
            None
        }
        (None, _) => {
            let name = variable::POD_IDENTITY_AUTHORITY_HOST;
            let text = reader.env.value(name).map(|value| value.expose().to_owned());
            let text = text.as_deref().unwrap_or(IdentityHost::IMDS);
            let address = local(reader, name, text.trim_end_matches('/'))?;
            Some(IdentityHost::Imds { address })
        }
    }
}

/// The identity's token is returned in clear text, so the address must not leave the machine:
/// loopback, link-local, or `https`.
fn local(reader: &mut Reader<'_>, name: &str, text: &str) -> Option<Url> {
    let problem = match address::plain(text) {
        Ok(url) if url.scheme() == "https" => return Some(url),
        Ok(url) if url.scheme() == "http" && (address::is_loopback(&url) || address::is_link_local(&url)) => {
            return Some(url);
        }
        Ok(_) => "is neither https nor on this machine".to_owned(),
        Err(problem) => problem,
    };
    let origin = Origin::Variable(name.into());
    reader.wrong_at(origin, "credentials.kind", format!("the address {problem}"));
    None
}
