//! What only the machine can say: whether the files and folders that a configuration names can be
//! used as `run` will use them.
//!
//! Nothing is created or changed.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::BoxError;
use crate::clock::Wall;
use crate::config::{self, ConfigError, Loaded, Origin, Resolved};
use crate::server::Address;
use crate::telemetry::log::chain;
use crate::token::Credential;
use crate::{net, plain_text};

/// Every file that cannot be used.
pub(super) fn mistakes(loaded: &Loaded) -> Vec<ConfigError> {
    let resolved = &loaded.resolved;
    let look = |path: &Option<PathBuf>, problem: fn(&Path) -> Option<String>| path.as_deref().and_then(problem);
    let mut looked = vec![
        ("credentials.certificate_file", certificate(resolved)),
        (
            "defender.ca_file",
            look(&resolved.defender.ca_file, unusable_authorities),
        ),
        ("store.ca_file", look(&resolved.store.ca_file, unusable_authorities)),
        (
            "store.certificate_file",
            look(&resolved.store.certificate_file, unusable_pair),
        ),
        ("quota.state_file", look(&resolved.quota.state_file, unwritable_file)),
        ("admin.listen", unusable_socket(&resolved.admin.listen)),
    ];
    let listen = resolved.server.listen.iter();
    looked.extend(listen.map(|listen| ("server.listen", unusable_socket(listen))));
    let problem = |(key, problem): (_, Option<String>)| Some(mistake(loaded, key, problem?));
    looked.into_iter().filter_map(problem).collect()
}

fn mistake(loaded: &Loaded, path: &'static str, problem: String) -> ConfigError {
    let key = config::keys().find(|key| key.path() == path);
    let origin = key.map_or(Origin::Default, |key| loaded.resolved.settings.get(key).origin);
    ConfigError::new(origin, Some(path.into()), problem)
}

/// What sign-in would say about certificate and key.
fn certificate(resolved: &Resolved) -> Option<String> {
    let Credential::Certificate { files, .. } = &resolved.credentials.credential else {
        return None;
    };
    match files.expiry() {
        Ok(at) if at < Wall::system().now() => Some(format!(
            "{}: the certificate has expired on {at}",
            files.certificate.display()
        )),
        Ok(_) => None,
        Err(error) => Some(format!("{}; {}", error.message(), error.advice())),
    }
}

/// Why the certificates of a file cannot be trusted, if they cannot.
fn unusable_authorities(path: &Path) -> Option<String> {
    let config = net::Config {
        ca_file: Some(path.to_owned()),
        ..net::Config::default()
    };
    net::Client::new(&config).err().map(|error| chain(&error))
}

/// Why a file does not hold a certificate and its key, if it does not.
fn unusable_pair(path: &Path) -> Option<String> {
    let problem = read_pair(path).err()?;
    Some(format!("{}: {problem}", path.display()))
}

fn read_pair(path: &Path) -> Result<CertifiedKey, BoxError> {
    let broken = |error: pem::Error| format!("holds a PEM section that is broken ({error})");
    let bytes = std::fs::read(path)?;
    let text = plain_text::pem(&bytes)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(broken)?;
    if certificates.is_empty() {
        return Err("holds no PEM certificate".into());
    }
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => "holds no PEM private key".to_owned(),
        error => broken(error),
    })?;
    // As the connection will: the certificate can be read, and is the key's.
    Ok(CertifiedKey::from_der(certificates, key, &ring::default_provider())?)
}

/// Why a file cannot be replaced, if it cannot.
fn unwritable_file(path: &Path) -> Option<String> {
    if path.exists()
        && let Err(error) = accessible(path, Access::READ_OK | Access::WRITE_OK)
    {
        return Some(format!("{}: cannot be read and written ({error})", path.display()));
    }
    unwritable_folder(path)
}

/// Why a Unix socket cannot be made, if it cannot.
fn unusable_socket(listen: &Address) -> Option<String> {
    let Address::Unix(path) = listen else { return None };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Some(format!("{}: there is something else than a socket", path.display()))
        }
        _ => unwritable_folder(path),
    }
}

/// Why nothing can be made beside `path`, if so.
fn unwritable_folder(path: &Path) -> Option<String> {
    let folder = match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => return Some(format!("{}: names no file", path.display())),
    };
    if !folder.is_dir() {
        return Some(format!("{}: there is no such directory", folder.display()));
    }
    let error = accessible(&folder, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!(
        "{}: this user cannot create files in it ({error})",
        folder.display()
    ))
}

/// Whether the process may do so, with the rights that it acts with.
fn accessible(path: &Path, access: Access) -> io::Result<()> {
    Ok(accessat(CWD, path, access, AtFlags::EACCESS)?)
}
