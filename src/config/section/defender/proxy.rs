//! The forward proxy.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use url::Url;

use crate::config::config_error::Origin;
use crate::config::env::variable;
use crate::config::key::Key;
use crate::config::reader::{Read, Reader};
use crate::operation::endpoint::percent_decoded;
use crate::secret::Secret;

/// A proxy that tunnels `https` connections (`CONNECT`).
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its address: `http`, host and port, without user and password.
    pub url: Url,
    /// The value of `Proxy-Authorization`, when the address held a user.
    pub authorization: Option<Secret>,
    /// The entries of `NO_PROXY`, trimmed, lower-case: `*`, a host, a domain with or without
    /// leading dot, an address or a CIDR block, each with or without a port.
    pub except: Vec<String>,
}

/// `None`: connect directly.
pub(super) fn read(reader: &mut Reader<'_>, key: &'static Key) -> Read<Option<Proxy>> {
    if reader.is_set(key) {
        let except = except(reader);
        return reader.parsed(key, |text| match text {
            "none" => Ok(None),
            _ if text.eq_ignore_ascii_case("none") => Err("is no address; write \"none\" in lower case".into()),
            _ => proxy(text, except).map(Some),
        });
    }
    let Some((name, value)) = reader.env.first(&[variable::HTTPS_PROXY, variable::HTTPS_PROXY_LOWER]) else {
        return Ok(None);
    };
    proxy(value.expose(), except(reader)).map(Some).map_err(|problem| {
        let problem = format!("the value {problem}; unset it, or set defender.via_proxy");
        reader.wrong_at(Origin::Variable(name.into()), key.path(), problem)
    })
}

fn except(reader: &Reader<'_>) -> Vec<String> {
    let Some((_, list)) = reader.env.first(&[variable::NO_PROXY, variable::NO_PROXY_LOWER]) else {
        return Vec::new();
    };
    let entries = list.expose().split([',', ' ', '\t']).map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// The error must not contain the value, which may include a password.
fn proxy(text: &str, except: Vec<String>) -> Result<Proxy, String> {
    // `HTTPS_PROXY=proxy:3128` is common.
    let text = if text.contains("://") {
        text.to_owned()
    } else if text.starts_with(['/', '\\']) {
        return Err("begins with a slash".into());
    } else {
        format!("http://{text}")
    };
    let mut url = Url::parse(&text).map_err(|error| format!("is no address ({error})"))?;
    if url.scheme() != "http" {
        return Err("is no HTTP proxy".into());
    }
    if url.host().is_none() || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("holds more, or less, than host and port".into());
    }
    let authorization = authorization(&url)?;
    // Both can only fail for addresses without a host, which were rejected above.
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| "has no host".to_owned())?;
    Ok(Proxy {
        url,
        authorization,
        except,
    })
}

/// `Basic` of the percent-decoded user and password (RFC 7617).
fn authorization(url: &Url) -> Result<Option<Secret>, String> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let broken = "holds a user or password with a broken %XX";
    let user = percent_decoded(url.username()).ok_or(broken)?;
    let password = percent_decoded(url.password().unwrap_or_default()).ok_or(broken)?;
    let pair = [&user[..], b":", &password[..]].concat();
    Ok(Some(Secret::new(format!("Basic {}", BASE64_STANDARD.encode(pair)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_become_a_header_and_leave_the_address() {
        let proxy = proxy("http://user:p%40ss@proxy.example:3128", Vec::new()).unwrap();
        assert_eq!(proxy.url.as_str(), "http://proxy.example:3128/");
        assert_eq!(
            proxy.authorization.as_ref().map(Secret::expose),
            Some("Basic dXNlcjpwQHNz")
        );
        assert!(!format!("{proxy:?}").contains("dXNl"));
        let proxy = super::proxy("http://us%40er:p%3Aw@proxy.example:3128", Vec::new()).unwrap();
        let authorization = format!("Basic {}", BASE64_STANDARD.encode("us@er:p:w"));
        assert_eq!(proxy.authorization.as_ref().map(Secret::expose), Some(&*authorization));
    }

    #[test]
    fn odd_proxies_are_refused_without_showing_them() {
        for text in [
            "socks5://u:hunter2@p:1",
            "https://u:hunter2@p:1",
            "http://u:hunter2@p/x",
            "http://u:hunter2%zz@p",
            "//u:hunter2@p:1",
            "\\u:hunter2@p:1",
            "http://",
        ] {
            assert!(!proxy(text, Vec::new()).unwrap_err().contains("hunter2"), "{text}");
        }
        assert_eq!(
            proxy("proxy:3128", Vec::new()).unwrap().url.as_str(),
            "http://proxy:3128/"
        );
    }
}
