//! What each kind of credential is made of: where it was written, and whether it can be used, so
//! that `check` finds errors that sign-in would only find later.

use std::path::{Path, PathBuf};

use http::HeaderValue;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use url::Url;

use super::key;
use crate::config::config_error::Origin;
use crate::config::env::variable;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader, Recorded, Sourced};
use crate::config::value::address;
use crate::operation::endpoint::is_guid;
use crate::plain_text;
use crate::secret::Secret;
use crate::token::{CertificateFiles, IdentityHost, SecretSource};

/// The variable with the secret, if that is used: a file for this program takes precedence over a
/// variable that every program sees.
fn secret_variable(reader: &Reader<'_>) -> Option<Sourced<Secret>> {
    let said = reader.secret(&key::client_secret)?;
    (!is_borrowed(&said.origin) || !reader.is_set(&key::client_secret_file)).then_some(said)
}

/// Where the secret was written, if it was.
pub(super) fn secret_origin(reader: &Reader<'_>) -> Option<Origin> {
    let variable = secret_variable(reader).map(|said| said.origin);
    let file = &key::client_secret_file;
    variable.or_else(|| reader.is_set(file).then(|| reader.origin(file)))
}

/// The secret at the place that [`secret_origin`] returned.
pub(super) fn secret(reader: &mut Reader<'_>) -> Read<SecretSource> {
    let said = secret_variable(reader);
    let Some(said) = said else {
        let path = reader.line_file(&key::client_secret_file)?.ok_or(Recorded)?;
        let looks_like_an_id = reader
            .content(&path)
            .is_ok_and(|content| plain_text::line(&content).is_ok_and(is_guid));
        if looks_like_an_id {
            reader.note(format!(
                "{}: {}: {AN_ID}",
                key::client_secret_file.path(),
                path.display()
            ));
        }
        return Ok(SecretSource::File(path));
    };
    let Origin::Variable(name) = said.origin else {
        return Err(Recorded);
    };
    let text = said.value.expose();
    // Secrets have no white space; a line break at the end or a byte order mark come from how the
    // variable was made.
    let trimmed = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if trimmed.is_empty() {
        let key = key::client_secret.path();
        return Err(reader.wrong_at(Origin::Variable(name), key, "holds nothing but white space"));
    }
    if trimmed.len() < text.len() {
        let what = if text.contains('\u{feff}') {
            "a byte order mark"
        } else {
            "white space"
        };
        reader.note(format!("{name}: {what} around the secret is left out"));
    }
    if is_guid(trimmed) {
        reader.note(format!("{name}: {AN_ID}"));
    }
    if let Err(malformed) = plain_text::line(trimmed.as_bytes()) {
        reader.note(format!("{name}: {malformed}"));
    }
    for oddity in plain_text::oddities(trimmed.as_bytes()) {
        reader.note(format!("{name}: {oddity}"));
    }
    Ok(SecretSource::Value(Secret::new(trimmed.to_owned())))
}

/// Rejects a secret together with a file for it, both meant for this program.
pub(super) fn check_secret(reader: &mut Reader<'_>) {
    let ours = reader
        .secret(&key::client_secret)
        .is_some_and(|said| !is_borrowed(&said.origin));
    if ours && reader.is_set(&key::client_secret_file) {
        let problem = format!(
            "names a secret, and {} holds one; keep one of them",
            key::client_secret.variable()
        );
        reader.wrong(&key::client_secret_file, problem);
    }
}

const AN_ID: &str =
    "looks like the id of a secret; sign-in wants its value, which the portal shows only once (AADSTS7000215)";

/// Whether a value comes from another program's variable.
pub(super) fn is_borrowed(origin: &Origin) -> bool {
    matches!(origin, Origin::Variable(name) if !name.starts_with(Key::PREFIX))
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const KEY: &str = "PRIVATE KEY-----";

/// The certificate's file, and the key's if it has one of its own. Only the headers are looked
/// at; whether the key belongs to the certificate, `check` finds by loading both, and `run` at the
/// first sign-in.
pub(super) fn certificate_files(reader: &mut Reader<'_>) -> Read<CertificateFiles> {
    let certificate = reader.file(&key::certificate_file);
    let key = reader.file(&key::private_key_file);
    let (Some(certificate), key) = (certificate?, key?) else {
        return Err(Recorded);
    };
    let first = look(reader, &key::certificate_file, &certificate, |text| {
        if !text.contains(CERTIFICATE) {
            return Err("holds no PEM certificate");
        }
        if key.is_none() && !text.contains(KEY) {
            return Err(
                "holds a certificate but no private key; add the key, or name its file in credentials.private_key_file",
            );
        }
        if key.is_none() { usable(text) } else { Ok(()) }
    });
    let second = key.as_deref().map_or(Ok(()), |path| {
        look(reader, &key::private_key_file, path, |text| {
            if text.contains(KEY) {
                usable(text)
            } else {
                Err("holds no PEM private key")
            }
        })
    });
    first.and(second)?;
    Ok(CertificateFiles {
        certificate,
        private_key: key,
    })
}

fn look(
    reader: &mut Reader<'_>,
    key: &'static Key,
    path: &Path,
    judge: impl FnOnce(&str) -> Result<(), &'static str>,
) -> Read<()> {
    // ASN.1 begins with a sequence.
    let binary = reader.content(path).is_ok_and(|content| content.first() == Some(&0x30));
    if binary {
        let problem = "is binary (PKCS#12 or DER); convert it with: openssl pkcs12 -in FILE -nodes -out FILE.pem";
        return Err(reader.file_wrong(key, path, problem));
    }
    let text = reader.pem(key, path)?;
    // The text around the sections may be in any encoding.
    judge(&String::from_utf8_lossy(&text)).map_err(|problem| reader.file_wrong(key, path, problem))
}

fn usable(text: &str) -> Result<(), &'static str> {
    if text.contains("ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(
            "the private key is encrypted, and nobody is there to type its password; decrypt it with: openssl pkey",
        );
    }
    if text.contains("BEGIN EC PRIVATE KEY-----") {
        return Err("the private key is not RSA, the only kind that Entra accepts");
    }
    Ok(())
}

/// App Service sets two variables, by which it is recognised; Service Fabric sets a third.
pub(super) fn app_service_origin(reader: &Reader<'_>) -> Option<Origin> {
    if reader.env.value(variable::IDENTITY_SERVER_THUMBPRINT).is_some() {
        return None;
    }
    reader.env.value(variable::IDENTITY_ENDPOINT)?;
    reader.env.value(variable::IDENTITY_HEADER)?;
    Some(Origin::Variable(variable::IDENTITY_ENDPOINT.into()))
}

/// The endpoint of a managed identity's tokens. It is never reached through a proxy.
pub(super) fn identity_host(reader: &mut Reader<'_>) -> Read<IdentityHost> {
    let header = reader.env.value(variable::IDENTITY_HEADER).cloned();
    let endpoint = reader.env.value(variable::IDENTITY_ENDPOINT).cloned();
    if endpoint.is_some() && reader.env.value(variable::IDENTITY_SERVER_THUMBPRINT).is_some() {
        let problem = "is set with IDENTITY_SERVER_THUMBPRINT, as Service Fabric does, which is not supported; use a certificate there";
        return Err(wrong(reader, variable::IDENTITY_ENDPOINT, problem));
    }
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
    let url = address::plain(text).and_then(|url| match url.scheme() {
        "https" => Ok(url),
        "http" if address::is_loopback(&url) || address::is_link_local(&url) => Ok(url),
        _ => Err("is neither https nor on this machine".into()),
    });
    url.map_err(|problem| wrong(reader, name, format!("the address {problem}")))
}

/// Records an error about the variable `name`, which only some kinds of credential use.
fn wrong(reader: &mut Reader<'_>, name: &str, problem: impl Into<String>) -> Recorded {
    reader.wrong_at(Origin::Variable(name.into()), "credentials.kind", problem)
}

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
pub(super) fn read_token_proxy(reader: &mut Reader<'_>) -> Read<Option<TokenProxy>> {
    let text = |reader: &Reader<'_>, name| reader.env.value(name).map(|value| value.expose().to_owned());
    let Some(url) = text(reader, variable::TOKEN_PROXY) else {
        return Ok(None);
    };
    let url = address::plain(&url).and_then(|url| match url.scheme() {
        "https" => Ok(url),
        _ => Err("does not start with https://".into()),
    });
    let url = url.map_err(|problem| wrong(reader, variable::TOKEN_PROXY, format!("the address {problem}")));
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
