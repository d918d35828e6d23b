//! The fields of a token request.

use super::code::AadstsCode;
use super::refusal::Refusal;

/// Decoded fields in order, without duplicates.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded`, or a query.
    pub(super) fn parse(encoded: &[u8]) -> Result<Self, Refusal> {
        let fields: Vec<(String, String)> = url::form_urlencoded::parse(encoded).into_owned().collect();
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Refusal::about(AadstsCode::DUPLICATED_FIELD, twice[0]));
        }
        Ok(Self(fields))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A field that must be there and not be empty.
    pub(super) fn require(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Refusal::about(AadstsCode::MISSING_FIELD, name))
    }
}
