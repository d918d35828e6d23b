//! The errors of a configuration, their positions, and suggestions for misspelt names.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written. The order is that of reading: the file from top to bottom, then
/// variables by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In the configuration file.
    File {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// In the environment variable of this name.
    Variable(String),
    /// Nowhere: the built-in default.
    Default,
}

/// One error. It contains no secret value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// Where it is.
    pub origin: Origin,
    /// The key, such as `server.drain`; `None` when the position is enough, as for a syntax error.
    pub key: Option<String>,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl ConfigError {
    /// `key` is `None` when the position is enough.
    pub fn new(origin: Origin, key: Option<String>, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { origin, key, problem }
    }
}

/// All errors of a configuration, in reading order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    file: Option<PathBuf>,
    list: Vec<ConfigError>,
}

impl Mistakes {
    /// Sorts `list`; `file` is the name shown before line numbers.
    pub fn new(file: Option<PathBuf>, mut list: Vec<ConfigError>) -> Self {
        list.sort();
        list.dedup();
        Self { file, list }
    }

    /// The errors, in reading order.
    pub fn list(&self) -> &[ConfigError] {
        &self.list
    }
}

/// One line for each error: `FILE:LINE:COLUMN: section.key: problem`, or the variable's name in
/// place of the position.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            match (&mistake.origin, &self.file) {
                (Origin::File { line, column }, Some(file)) => write!(f, "{}:{line}:{column}: ", file.display())?,
                (Origin::File { line, column }, None) => write!(f, "{line}:{column}: ")?,
                (Origin::Variable(name), _) => write!(f, "{name}: ")?,
                (Origin::Default, _) => {}
            }
            if let Some(key) = &mistake.key {
                write!(f, "{key}: ")?;
            }
            f.write_str(&mistake.problem)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The name nearest to `wrong`, unless none is near enough.
///
/// Two errors are allowed in short names, one for each three characters in long ones; two swapped
/// neighbours count as one error.
pub(super) fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (wrong.chars().count() / 3).clamp(2, 4);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= allowed && *distance < name.len())
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(origin: Origin, key: &str) -> ConfigError {
        ConfigError {
            origin,
            key: Some(key.into()),
            problem: "is wrong".into(),
        }
    }

    #[test]
    fn mistakes_are_shown_in_reading_order_and_once() {
        let list = vec![
            mistake(Origin::Default, "credentials"),
            mistake(Origin::Variable("B".into()), "b.b"),
            mistake(Origin::File { line: 10, column: 1 }, "late.key"),
            mistake(Origin::File { line: 9, column: 7 }, "early.key"),
            mistake(Origin::File { line: 9, column: 7 }, "early.key"),
        ];
        assert_eq!(
            Mistakes::new(Some("g.toml".into()), list).to_string(),
            "g.toml:9:7: early.key: is wrong\ng.toml:10:1: late.key: is wrong\nB: b.b: is wrong\ncredentials: is wrong"
        );
    }

    #[test]
    fn slips_find_their_name_and_strangers_find_none() {
        let names = ["listen", "drain", "max_body", "ttl"];
        assert_eq!(nearest("lisen", names), Some("listen"));
        assert_eq!(nearest("maxbody", names), Some("max_body"));
        assert_eq!(nearest("tll", names), Some("ttl"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("", names), None);
    }
}
