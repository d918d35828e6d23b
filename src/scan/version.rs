//! The two paths of the one operation.

/// Which path the caller used, and so which one is called upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// `/api/…`: whatever is current.
    Latest,
    /// `/api/v1.0/…`.
    V1,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Latest, Self::V1];

    /// The version behind a request's path, without its query; `None` for every other path, which is then unknown here.
    ///
    /// The match is exact. A sibling, `BatchDelete`, takes the same body, so nothing close to the path may pass for it.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.path() == path)
    }

    /// The path, here and upstream. It is fixed in code and never taken from the caller.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Latest => "/api/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId",
            Self::V1 => "/api/v1.0/DeviceAuthenticatedScanDefinitions/GetScanHistoryByScanDefinitionId",
        }
    }

    /// The name in keys and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::V1 => "v1.0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_exact_paths_have_a_version() {
        for version in Version::ALL {
            let path = version.path();
            assert_eq!(Version::from_path(path), Some(version));
            for near in [
                format!("{path}/"),
                format!("/{path}"),
                path.to_lowercase(),
                path.replace("GetScanHistoryByScanDefinitionId", "BatchDelete"),
                path.replace("Id", "%49d"),
                path.replace("v1.0", "v1"),
            ] {
                assert!(
                    near == path || Version::from_path(&near).is_none(),
                    "{near} must not be known"
                );
            }
        }
    }
}
