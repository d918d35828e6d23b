//! The custom token endpoint that the workload-identity webhook can set: token requests go there
//! instead of the authority.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use url::Url;

use super::managed::wrong;
use crate::config::env::variable;
use crate::config::reader::{Read, Reader};
use crate::config::value::address;
use crate::plain_text;

/// The address that workload-identity token requests are sent to, instead of the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenProxy {
    /// Its address: `https`, without query.
    pub url: Url,
    /// The authorities that its certificate is checked against.
    pub roots: TrustedRoots,
    /// The server name to request and check, instead of the address's host.
    pub server_name: Option<String>,
}

/// Certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedRoots {
    /// The built-in ones.
    BuiltIn,
    /// Those of a PEM file, which may change.
    File(PathBuf),
    /// Those of a PEM text, which contains at least one.
    Pem(String),
}

/// `None`: there is none.
pub(super) fn read(reader: &mut Reader<'_>) -> Read<Option<TokenProxy>> {
    let text = |reader: &Reader<'_>, name| reader.env.value(name).map(|value| value.expose().to_owned());
    let Some(url) = text(reader, variable::TOKEN_PROXY) else {
        return Ok(None);
    };
    let url = match address::plain(&url) {
        Ok(url) if url.scheme() == "https" => Ok(url),
        Ok(_) => Err("the address does not start with https://".to_owned()),
        Err(problem) => Err(format!("the address {problem}")),
    };
    let url = url.map_err(|problem| wrong(reader, variable::TOKEN_PROXY, problem));
    let file = text(reader, variable::TOKEN_PROXY_CA_FILE);
    let data = text(reader, variable::TOKEN_PROXY_CA_DATA);
    let roots = roots(reader, file, data).map_err(|(name, problem)| wrong(reader, name, problem));
    let server_name = text(reader, variable::TOKEN_PROXY_SNI_NAME);
    if let Some(name) = &server_name
        && ServerName::try_from(name.as_str()).is_err()
    {
        let problem = "the value is no server name";
        return Err(wrong(reader, variable::TOKEN_PROXY_SNI_NAME, problem));
    }
    Ok(Some(TokenProxy {
        url: url?,
        roots: roots?,
        server_name,
    }))
}

/// The error is the variable's name and what is wrong with it.
fn roots(
    reader: &Reader<'_>,
    file: Option<String>,
    data: Option<String>,
) -> Result<TrustedRoots, (&'static str, String)> {
    use variable::{TOKEN_PROXY_CA_DATA, TOKEN_PROXY_CA_FILE};
    match (file, data) {
        (None, None) => Ok(TrustedRoots::BuiltIn),
        (Some(_), Some(_)) => {
            let problem = format!("is set together with {TOKEN_PROXY_CA_FILE}; keep one of them");
            Err((TOKEN_PROXY_CA_DATA, problem))
        }
        (Some(file), None) => match holds_certificate(reader, file.as_ref()) {
            Ok(()) => Ok(TrustedRoots::File(file.into())),
            Err(problem) => Err((TOKEN_PROXY_CA_FILE, format!("{file}: {problem}"))),
        },
        (None, Some(data)) if begins_with_certificate(data.as_bytes()) => Ok(TrustedRoots::Pem(data)),
        (None, Some(_)) => Err((TOKEN_PROXY_CA_DATA, "the value holds no PEM certificate".into())),
    }
}

fn holds_certificate(reader: &Reader<'_>, file: &Path) -> Result<(), String> {
    reader.holds(file)?;
    let content = reader.content(file)?;
    let text = plain_text::pem(&content).map_err(|malformed| malformed.to_string())?;
    if begins_with_certificate(&text) {
        Ok(())
    } else {
        Err("holds no PEM certificate".into())
    }
}

fn begins_with_certificate(pem: &[u8]) -> bool {
    matches!(CertificateDer::pem_slice_iter(pem).next(), Some(Ok(_)))
}
