//! What was found out, as people read it.

use std::fmt;

/// The evidence so far, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Report {
    lines: Vec<(&'static str, String)>,
    /// Lines of TOML.
    pub(super) settings: Vec<String>,
}

impl Report {
    pub(super) fn say(&mut self, subject: &'static str, text: impl Into<String>) {
        self.lines.push((subject, text.into()));
    }

    /// What was said about a subject.
    #[cfg(test)]
    pub(super) fn about(&self, subject: &str) -> String {
        let about = self.lines.iter().filter(|(of, _)| *of == subject);
        about.map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (subject, text) in &self.lines {
            writeln!(f, "{subject:<12} {text}")?;
        }
        if !self.settings.is_empty() {
            writeln!(f, "\nRecommended settings:")?;
        }
        self.settings.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
