//! Suggestions for misspelt names: the nearest existing name.

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
