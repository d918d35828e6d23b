//! The custom token endpoint that the workload-identity webhook can set: token requests go there
//! instead of the authority.

use std::path::PathBuf;

use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use url::Url;

use crate::config::config_error::Origin;
use crate::config::env::variable;
use crate::config::reader::{Reader, Recorded};
use crate::config::value::address;

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
pub(super) fn read(reader: &mut Reader<'_>) -> Result<Option<TokenProxy>, Recorded> {
    let text = |reader: &Reader<'_>, name| reader.env.value(name).map(|value| value.expose().to_owned());
    let Some(url) = text(reader, variable::TOKEN_PROXY) else {
        return Ok(None);
    };
    let url = match address::plain(&url) {
        Ok(url) if url.scheme() == "https" => Ok(url),
        Ok(_) => wrong(
            reader,
            variable::TOKEN_PROXY,
            "the address does not start with https://",
        ),
        Err(problem) => wrong(reader, variable::TOKEN_PROXY, format!("the address {problem}")),
    };
    let file = text(reader, variable::TOKEN_PROXY_CA_FILE);
    let data = text(reader, variable::TOKEN_PROXY_CA_DATA);
    let roots = roots(reader, file, data);
    let server_name = text(reader, variable::TOKEN_PROXY_SNI_NAME);
    if let Some(name) = &server_name
        && ServerName::try_from(name.as_str()).is_err()
    {
        return wrong(reader, variable::TOKEN_PROXY_SNI_NAME, "the value is no server name");
    }
    Ok(Some(TokenProxy {
        url: url?,
        roots: roots?,
        server_name,
    }))
}

fn roots(reader: &mut Reader<'_>, file: Option<String>, data: Option<String>) -> Result<TrustedRoots, Recorded> {
    match (file, data) {
        (None, None) => Ok(TrustedRoots::BuiltIn),
        (Some(_), Some(_)) => wrong(
            reader,
            variable::TOKEN_PROXY_CA_DATA,
            format!(
                "is set together with {}; keep one of them",
                variable::TOKEN_PROXY_CA_FILE
            ),
        ),
        (Some(file), None) => {
            let path = PathBuf::from(file);
            match reader.holds(&path) {
                Ok(()) => Ok(TrustedRoots::File(path)),
                Err(problem) => wrong(
                    reader,
                    variable::TOKEN_PROXY_CA_FILE,
                    format!("{}: {problem}", path.display()),
                ),
            }
        }
        (None, Some(data)) => {
            let mut certificates = CertificateDer::pem_slice_iter(data.as_bytes());
            if matches!(certificates.next(), Some(Ok(_))) {
                Ok(TrustedRoots::Pem(data))
            } else {
                wrong(
                    reader,
                    variable::TOKEN_PROXY_CA_DATA,
                    "the value holds no PEM certificate",
                )
            }
        }
    }
}

fn wrong<T>(reader: &mut Reader<'_>, name: &str, problem: impl Into<String>) -> Result<T, Recorded> {
    reader.wrong_at(Origin::Variable(name.into()), "credentials.kind", problem);
    Err(Recorded)
}
