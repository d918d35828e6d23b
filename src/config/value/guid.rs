//! GUIDs, as Entra names tenants and applications.

/// The number of digits in each group.
const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];

/// The placeholder for an id in examples.
const PLACEHOLDER: &str = "00000000-0000-0000-0000-000000000000";

/// 8-4-4-4-12 hexadecimal digits.
pub(in crate::config) fn is_guid(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq(GROUPS)
        && groups.iter().all(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Rejects a text that looks like a GUID but is none, and the placeholder. Other names are
/// accepted.
pub(in crate::config) fn check(text: &str) -> Result<(), String> {
    if text == PLACEHOLDER {
        return Err("is the placeholder of the examples; put your own in its place".into());
    }
    if is_guid(text) || !is_nearly_one(text) {
        return Ok(());
    }
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    Err(format!(
        "looks like a GUID, but is none: it has {digits} hexadecimal digits in groups of {}; a GUID has 32 in groups of 8-4-4-4-12",
        text.split('-')
            .map(|group| group.len().to_string())
            .collect::<Vec<_>>()
            .join("-")
    ))
}

/// Five groups of about the right size, or about the right number of digits with a hyphen lost or
/// doubled.
fn is_nearly_one(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    let about = |(group, digits): (&&str, usize)| group.len().abs_diff(digits) <= 2;
    let by_groups = groups.len() == GROUPS.len()
        && groups.iter().zip(GROUPS).all(about)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let only_digits = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
    by_groups || (only_digits && (30..=34).contains(&digits) && groups.len() >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_and_names_of_other_kinds_pass() {
        for good in [
            "11111111-2222-3333-4444-555555555555",
            "ABCDEFab-2222-3333-4444-abcdef012345",
            "contoso.onmicrosoft.com",
            "t",
            "with-certificate",
            "api://gateway",
            "my-app-for-the-scans",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn near_guids_and_placeholders_are_rejected() {
        for bad in [
            "11111111-2222-3333-4444-55555555555",
            "11111111-2222-3333-4444-5555555555555",
            "1111111-2222-3333-4444-555555555555",
            "11111111-2222-3333-4444-55555555555O",
            "11111111-22223333-4444-555555555555",
            "11111111--2222-3333-4444-555555555555",
        ] {
            let problem = check(bad).unwrap_err();
            assert!(
                problem.starts_with("looks like a GUID, but is none"),
                "{bad}: {problem}"
            );
        }
        assert!(check(PLACEHOLDER).unwrap_err().contains("placeholder"));
    }
}
