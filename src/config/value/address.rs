//! Addresses of other services. A token or secret is sent to them, so they are `https`, or on this
//! machine.

use url::{Host, Url};

/// Parses the address of an upstream or sign-in host: `https`, or `http` for loopback; without
/// user, query or fragment.
///
/// The error is a phrase that follows the value in a message, and does not contain the value.
pub(in crate::config) fn trusted(text: &str) -> Result<Url, String> {
    let url = plain(text)?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("would send a token unencrypted; http:// is for loopback addresses only, write https://".into()),
        _ => Err("does not start with https://".into()),
    }
}

/// Like [`trusted`], and without a path: the path is fixed in the program.
pub(in crate::config) fn base(text: &str) -> Result<Url, String> {
    let url = trusted(text)?;
    if url.path() == "/" {
        Ok(url)
    } else {
        Err("holds a path; write the scheme and host only".into())
    }
}

/// A URL with a host, without user, query or fragment.
pub(in crate::config) fn plain(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is no address ({error}); write https://HOST"))?;
    if url.host().is_none() {
        return Err("has no host; write https://HOST".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("holds a query or fragment".into());
    }
    Ok(url)
}

/// Whether the address is on this machine, according to its text.
pub(in crate::config) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.to_canonical().is_loopback(),
        None => false,
    }
}

/// Whether the address is link-local IPv4, as Azure's metadata services are.
pub(in crate::config) fn is_link_local(url: &Url) -> bool {
    matches!(url.host(), Some(Host::Ipv4(ip)) if ip.is_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_for_loopback_only() {
        for good in [
            "https://eu.api.security.microsoft.com",
            "https://eu.api.security.microsoft.com/",
            "http://127.0.0.1:9000",
            "http://[::1]:9000",
            "http://[::ffff:127.0.0.1]:9000",
            "http://localhost:9000",
        ] {
            assert!(base(good).is_ok(), "{good}");
        }
        for (text, reason) in [
            ("http://10.0.0.1", "would send a token unencrypted"),
            ("http://localhost.example.com", "would send a token unencrypted"),
            ("http://127.0.0.1.example.com", "would send a token unencrypted"),
            ("ftp://a", "does not start with https://"),
            ("eu.api.security.microsoft.com", "is no address"),
            ("https://", "is no address"),
            ("https://user@a", "holds a user name"),
            ("https://:pw@a", "holds a user name"),
            ("https://a?x", "holds a query"),
            ("https://a#x", "holds a query"),
            ("https://a/api", "holds a path"),
        ] {
            let error = base(text).unwrap_err();
            assert!(error.starts_with(reason), "{text:?}: {error}");
        }
        assert!(!base("https://user:hunter2@a").unwrap_err().contains("hunter2"));
    }
}
