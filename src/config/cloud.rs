//! Microsoft's clouds: which hosts, sign-in and scope belong together.
//!
//! A token of one cloud is useless in another, and the resulting error does not say so. So the
//! hosts in a configuration are compared with the chosen cloud. Hosts that belong to no known cloud
//! (a simulator) fit all of them.

use std::fmt;

use crate::telemetry::named_enum;

named_enum! {
    /// A national cloud of Microsoft's.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Cloud, as_str {
        /// The commercial cloud.
        Public = "public",
        /// US government community: signs in at the commercial cloud.
        Gcc = "gcc",
        /// US government, high.
        GccHigh = "gcc-high",
        /// US Department of Defense: the same hosts as high.
        Dod = "dod",
    }
}

/// Which clouds a host can belong to.
type Clouds = &'static [Cloud];

const COMMERCIAL_SIGN_IN: Clouds = &[Cloud::Public, Cloud::Gcc];
const GOVERNMENT: Clouds = &[Cloud::GccHigh, Cloud::Dod];
const NOWHERE: Clouds = &[];

impl Cloud {
    /// The hosts, each with the name of its geography.
    ///
    /// Public: the seven current geographies, the four of the 2021 list, which still answer, and
    /// the base host. No geographies are documented for the government clouds.
    pub fn regions(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Public => &[
                ("us", "https://us.api.security.microsoft.com"),
                ("eu", "https://eu.api.security.microsoft.com"),
                ("uk", "https://uk.api.security.microsoft.com"),
                ("au", "https://au.api.security.microsoft.com"),
                ("swa", "https://swa.api.security.microsoft.com"),
                ("ina", "https://ina.api.security.microsoft.com"),
                ("aea", "https://aea.api.security.microsoft.com"),
                ("us", "https://api-us.securitycenter.microsoft.com"),
                ("eu", "https://api-eu.securitycenter.microsoft.com"),
                ("uk", "https://api-uk.securitycenter.microsoft.com"),
                ("au", "https://api-au.securitycenter.microsoft.com"),
                ("global", "https://api.security.microsoft.com"),
            ],
            Self::Gcc => &[("gcc", "https://api-gcc.securitycenter.microsoft.us")],
            Self::GccHigh | Self::Dod => &[("gov", "https://api-gov.securitycenter.microsoft.us")],
        }
    }

    /// The sign-in host.
    pub fn authority(self) -> &'static str {
        match self {
            Self::Public | Self::Gcc => "https://login.microsoftonline.com",
            Self::GccHigh | Self::Dod => "https://login.microsoftonline.us",
        }
    }

    /// The scope of tokens. It stays the `securitycenter` name also for the `security` hosts,
    /// because another audience leads to a 403.
    pub fn scope(self) -> &'static str {
        match self {
            Self::Public => "https://api.securitycenter.microsoft.com/.default",
            Self::Gcc => "https://api-gcc.securitycenter.microsoft.us/.default",
            Self::GccHigh | Self::Dod => "https://api-gov.securitycenter.microsoft.us/.default",
        }
    }

    /// Whether `host` may be this cloud's sign-in host.
    ///
    /// # Errors
    /// A phrase that follows the value in a message.
    pub(super) fn accepts_authority(self, host: &str) -> Result<(), String> {
        let clouds = match host {
            "login.microsoftonline.com" | "login.windows.net" | "login.microsoft.com" => COMMERCIAL_SIGN_IN,
            "login.microsoftonline.us" | "login.usgovcloudapi.net" => GOVERNMENT,
            "login.partner.microsoftonline.cn" | "login.chinacloudapi.cn" => NOWHERE,
            _ => return Ok(()),
        };
        self.belongs(clouds, "signs in to")
    }

    /// Whether `host` may be this cloud's Defender host, or the name in its scope.
    ///
    /// # Errors
    /// A phrase that follows the value in a message.
    pub(super) fn accepts_api(self, host: &str, path: &str) -> Result<(), String> {
        let clouds = match (host, path) {
            // An older name of the same resource; the path is part of it.
            ("securitycenter.onmicrosoft.com", _) if path.starts_with("/windowsatpservice") => COMMERCIAL_SIGN_IN,
            ("securitycenter.onmicrosoft.us", _) if path.starts_with("/windowsatpservice") => GOVERNMENT,
            ("api-gcc.securitycenter.microsoft.us" | "api-gcc.security.microsoft.us", _) => &[Self::Gcc],
            ("api-gov.securitycenter.microsoft.us" | "api-gov.security.microsoft.us", _) => GOVERNMENT,
            _ if [
                "securitycenter.microsoft.com",
                "securitycenter.windows.com",
                "security.microsoft.com",
            ]
            .iter()
            .any(|parent| host.strip_suffix(parent).is_some_and(|start| start.ends_with('.'))) =>
            {
                &[Self::Public]
            }
            _ => return Ok(()),
        };
        self.belongs(clouds, "belongs to")
    }

    fn belongs(self, clouds: Clouds, verb: &str) -> Result<(), String> {
        if clouds.contains(&self) {
            return Ok(());
        }
        let names: Vec<_> = clouds.iter().map(|cloud| format!("\"{cloud}\"")).collect();
        if names.is_empty() {
            return Err(format!(
                "{verb} a cloud without a Defender API; defender.cloud is \"{self}\""
            ));
        }
        let names = names.join(" or ");
        Err(format!(
            "{verb} the cloud {names}, but defender.cloud is \"{self}\"; leave this key out, or set defender.cloud to {names}"
        ))
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    #[test]
    fn every_cloud_accepts_its_own_hosts_and_no_other_clouds() {
        for cloud in Cloud::ALL {
            for other in Cloud::ALL {
                let authority = Url::parse(other.authority()).unwrap();
                let same = cloud.authority() == other.authority();
                assert_eq!(
                    cloud.accepts_authority(authority.host_str().unwrap()).is_ok(),
                    same,
                    "{cloud} {other}"
                );
                for text in other.regions().iter().map(|(_, url)| *url).chain([other.scope()]) {
                    let url = Url::parse(text).unwrap();
                    let same = cloud.scope() == other.scope();
                    assert_eq!(
                        cloud.accepts_api(url.host_str().unwrap(), url.path()).is_ok(),
                        same,
                        "{cloud} {text}"
                    );
                }
            }
        }
    }

    #[test]
    fn strangers_fit_every_cloud_and_china_none() {
        for cloud in Cloud::ALL {
            assert!(cloud.accepts_api("127.0.0.1", "/").is_ok());
            assert!(cloud.accepts_api("notsecurity.microsoft.com.example", "/").is_ok());
            assert!(cloud.accepts_authority("idp.example.com").is_ok());
            assert!(
                cloud
                    .accepts_authority("login.chinacloudapi.cn")
                    .unwrap_err()
                    .contains("without a Defender API")
            );
        }
        assert!(
            Cloud::Gcc
                .accepts_api("securitycenter.onmicrosoft.com", "/windowsatpservice/.default")
                .is_ok()
        );
        assert!(
            Cloud::Dod
                .accepts_api("securitycenter.onmicrosoft.com", "/windowsatpservice/.default")
                .is_err()
        );
    }
}
