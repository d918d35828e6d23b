//! A configuration key by key: for comparing two, for holding what only a restart changes, and for
//! people.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use url::Url;

use super::config_error::Origin;
use super::files::{Digest, Files, MAX_CONTENT_BYTES};
use super::key::{Key, Reload, keys};
use super::raw::{Node, Raw, RawConfig};
use super::section::{SECTIONS, store};
use crate::scan::hex;

/// The value of every key and where it was written, of a configuration without errors. Clones share
/// it.
#[derive(Clone)]
pub struct Settings {
    written: Arc<RawConfig>,
}

/// The value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As in TOML, without passwords; `None` for a secret.
    pub value: Option<String>,
    /// Where it was written.
    pub origin: Origin,
}

impl Settings {
    pub(super) fn new(written: RawConfig) -> Self {
        let written = Arc::new(written);
        Self { written }
    }

    pub(super) fn node(&self, key: &'static Key) -> Node {
        self.written.node(key)
    }

    /// The value of `key`.
    pub fn get(&self, key: &'static Key) -> Setting {
        let node = self.node(key);
        Setting {
            value: key.in_file().then(|| value(key, &node.raw).to_string()),
            origin: node.origin,
        }
    }

    /// Whether the key of this path was written, and not left at its default.
    pub fn is_set(&self, path: &str) -> bool {
        let mut key = keys().filter(|key| key.path() == path);
        key.any(|key| self.get(key).origin != Origin::Default)
    }

    /// The contents, as they are now, of the files that are read once; `None` when they are as they
    /// were read.
    pub fn other_contents(&self, files: &dyn Files) -> Option<Vec<Option<Digest>>> {
        let read_once = keys().map(|key| self.node(key)).filter(|node| node.content.is_some());
        let (now, read): (Vec<_>, Vec<_>) = read_once
            .map(|node| {
                let Raw::Text(path) = &node.raw else {
                    return (None, node.content);
                };
                let now = files.read(Path::new(path), MAX_CONTENT_BYTES).ok();
                (now.map(|content| Digest::of(&content)), node.content)
            })
            .unzip();
        (now != read).then_some(now)
    }

    /// The keys whose values differ in `other`, wherever they are written. Where a file is read
    /// once, its content is part of the value.
    pub fn changed(&self, other: &Self) -> Vec<&'static Key> {
        let differs = |key: &&'static Key| !self.node(key).has_same_value(&other.node(key));
        keys().filter(|key| key.in_file()).filter(differs).collect()
    }

    /// Whether a gateway with these settings needs a restart to apply another value of `key`.
    pub fn is_fixed(&self, key: &Key) -> bool {
        match key.reload() {
            Reload::Live => false,
            Reload::Restart => true,
            Reload::LiveAlone => !self.node(&store::key::url).is_empty(),
        }
    }

    /// A hash over all values, as 16 hexadecimal digits, by which configurations can be compared.
    /// Passwords are left out, so that it can be shown.
    pub fn digest(&self) -> String {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for key in keys() {
            let line = format!("{} = {}\n", key.path(), self.get(key).value.unwrap_or_default());
            context.update(line.as_bytes());
        }
        hex(&context.finish().as_ref()[..8])
    }

    /// A configuration file with every value and where it comes from. `file` is the name shown
    /// before line numbers.
    pub fn show(&self, file: Option<&Path>) -> String {
        let mut text = String::new();
        for section in SECTIONS {
            let _ = write!(text, "{}[{}]", if text.is_empty() { "" } else { "\n" }, section.name);
            text.push('\n');
            for key in section.keys {
                let Setting { value, origin } = self.get(key);
                let origin = match (origin, file) {
                    (Origin::File { line, .. }, Some(file)) => format!("{}:{line}", file.display()),
                    (Origin::File { line, .. }, None) => format!("line {line}"),
                    (Origin::Variable(name), _) => name,
                    (Origin::Default, _) => "default".into(),
                };
                let line = match value {
                    Some(value) => format!("{} = {value}", key.name),
                    None if origin == "default" => continue,
                    None => format!("# {} is secret", key.name),
                };
                let _ = writeln!(text, "{line:<40} # {origin}");
            }
        }
        text
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.changed(other).is_empty()
    }
}

/// Nothing is shown, because it may contain a password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

/// As TOML, without passwords.
fn value(key: &Key, raw: &Raw) -> toml::Value {
    raw.to_toml(if key.is_hidden {
        &without_password
    } else {
        &str::to_owned
    })
}

/// An address without its user, password and query; other values unchanged, because ids and names
/// have been checked.
fn without_password(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if url.has_host() && !url.path().contains('@') => {
            url.set_query(None);
            if !url.username().is_empty() || url.password().is_some() {
                // An address with a host can have a user.
                let _ = url.set_username("redacted");
                let _ = url.set_password(None);
            }
            url.into()
        }
        // The address of several hosts is no URL, nor is that of a proxy without a scheme. The last
        // `@` is taken, because a password may hold anything.
        _ => {
            let text = text.split('?').next().unwrap_or_default();
            let (scheme, rest) = text.split_at(text.find("://").map_or(0, |at| at + 3));
            match rest.rsplit_once('@') {
                Some((_, hosts)) => format!("{scheme}redacted@{hosts}"),
                None => text.to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, Environment, parse};
    use super::*;

    fn settings(text: &str) -> Settings {
        let env = Environment::from_iter([
            ("AZURE_TENANT_ID", "contoso.example"),
            ("AZURE_CLIENT_ID", "11111111-2222-3333-4444-555555555555"),
            ("AZURE_CLIENT_SECRET", "hunter2hunter2"),
        ]);
        parse(Path::new("g.toml"), text, &env, &Disk).unwrap().resolved.settings
    }

    fn paths(keys: &[&Key]) -> Vec<String> {
        keys.iter().map(|key| key.path()).collect()
    }

    #[test]
    fn only_other_values_are_changes() {
        let one = settings("[callers]\nweights = { a = 2, b = 3 }\n[cache]\nttl = \"30s\"\n");
        let moved = settings("\n\n[callers]\nweights = { b = 3, a = 2 }\n");
        assert_eq!(paths(&one.changed(&moved)), [""; 0]);
        assert_eq!(one.digest(), moved.digest());
        let other = settings("[callers]\nweights = { a = 2, b = 4 }\n[admin]\nquit = true\n");
        assert_eq!(paths(&one.changed(&other)), ["admin.quit", "callers.weights"]);
        assert_ne!(one.digest(), other.digest());
    }

    #[test]
    fn values_agreed_between_replicas_are_fixed() {
        let limits = keys().find(|key| key.path() == "quota.limits").unwrap();
        assert!(!settings("").is_fixed(limits));
        assert!(settings("[store]\nurl = \"redis://h\"\n").is_fixed(limits));
    }

    #[test]
    fn the_shown_file_has_the_same_values_and_no_secret() {
        let one = settings(
            "[callers]\nweights = { \"a b\" = 2 }\n[[defender.regions]]\nname = \"eu\"\nurl = \"https://eu.example\"\n",
        );
        let shown = one.show(Some(Path::new("g.toml")));
        assert_eq!(settings(&shown), one, "{shown}");
        assert!(
            shown.contains("# g.toml:2\n") && shown.contains("# AZURE_TENANT_ID\n"),
            "{shown}"
        );
        assert!(
            shown.contains("# client_secret is secret") && !shown.contains("hunter2"),
            "{shown}"
        );

        for (text, shown) in [
            ("//me:hunter2@proxy.example:3128", "redacted@proxy.example:3128"),
            ("socks:me:hunter2@h", "redacted@h"),
            ("redis+sentinel://me:12/hunter2@h:1", "redis+sentinel://redacted@h:1"),
            ("redis://a:1,b:2/0?x=hunter2", "redis://a:1,b:2/0"),
        ] {
            assert_eq!(without_password(text), shown);
        }
        for (text, shown) in [
            (
                "[store]\nurl = \"rediss://me:hunter2@h:1/2?password=hunter2\"\n",
                "url = \"rediss://redacted@h:1/2\"",
            ),
            (
                "[store]\nurl = \"rediss+cluster://me:hunter2@a:1,b:2/\"\n",
                "url = \"rediss+cluster://redacted@a:1,b:2/\"",
            ),
            (
                "[store]\nurl = \"redis+sentinel://:hunter2@a:1,b:2/main?sentinel_password=hunter2\"\n",
                "url = \"redis+sentinel://redacted@a:1,b:2/main\"",
            ),
            (
                "[defender]\nvia_proxy = \"me:hunter2@proxy.example:3128\"\n",
                "via_proxy = \"redacted@proxy.example:3128\"",
            ),
        ] {
            let all = settings(text).show(None);
            assert!(all.contains(shown), "{text}: {all}");
            assert!(!all.contains("hunter2"), "{text}: {all}");
        }
    }
}
