//! Checks the files of a certificate, so that `check` finds errors that sign-in would only find
//! later.
//!
//! Only the headers are looked at here. Whether the key belongs to the certificate, `check` finds by
//! loading both, and `run` at the first sign-in.

use std::path::Path;

use super::key;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader, Recorded};
use crate::token::CertificateFiles;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
const KEY: &str = "PRIVATE KEY-----";

/// The certificate's file, and the key's if it has one of its own.
pub(super) fn read(reader: &mut Reader<'_>) -> Read<CertificateFiles> {
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
