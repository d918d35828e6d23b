//! Properties of reading any configuration at all.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use defender_gateway::testing::config::{Key, Origin, keys};
use proptest::prelude::*;
use proptest::sample::subsequence;

use super::{parse, signed_in};

fn in_file() -> Vec<&'static Key> {
    keys().filter(|key| key.in_file()).collect()
}

/// Reads a file in which these keys hold what no key can hold: each is told, once, and nothing
/// else.
fn break_all(broken: &[&'static Key]) -> Result<(), TestCaseError> {
    let mut sections = BTreeMap::<_, String>::new();
    for key in broken {
        // No key holds a date.
        writeln!(sections.entry(key.section).or_default(), "{} = 1979-05-27", key.name).unwrap();
    }
    let mut text = String::new();
    for (name, lines) in sections {
        write!(text, "[{name}]\n{lines}").unwrap();
    }
    let mistakes = signed_in(&text, &[]).expect_err("every key is broken");
    for key in broken {
        let found = mistakes
            .list()
            .iter()
            .filter(|mistake| mistake.key.as_deref() == Some(&key.path()))
            .count();
        prop_assert_eq!(found, 1, "{}", key.path());
    }
    prop_assert_eq!(mistakes.list().len(), broken.len());
    Ok(())
}

/// A file that is missing is no mistake of its own while its name cannot be read.
#[test]
fn names_of_files_that_cannot_be_read_are_told_once() {
    for names in [&["certificate_file", "federated_token_file"][..], &["private_key_file"]] {
        let broken: Vec<_> = in_file()
            .into_iter()
            .filter(|key| key.section == "credentials" && names.contains(&key.name))
            .collect();
        assert_eq!(broken.len(), names.len());
        break_all(&broken).unwrap();
    }
}

proptest! {
    #[test]
    fn no_mistake_hides_another(broken in subsequence(in_file(), 1..=in_file().len())) {
        break_all(&broken)?;
    }

    #[test]
    fn any_text_is_read_or_refused_and_places_lie_within_it(text in any::<String>()) {
        if let Err(mistakes) = parse(&text, &[]) {
            let lines = text.matches('\n').count() + 1;
            for mistake in mistakes.list() {
                if let Origin::File { line, .. } = mistake.origin {
                    prop_assert!((1..=lines).contains(&line), "{}", mistake.problem);
                }
            }
        }
    }

    #[test]
    fn a_damaged_file_is_read_or_refused(at in 0usize..10_000, junk in "[\\PC\n\"\\[\\]=]{0,8}") {
        let mut text = include_str!("../../../config/gateway.toml").to_owned();
        let mut at = at % text.len();
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.insert_str(at, &junk);
        let _ = signed_in(&text, &[]);
    }

    #[test]
    fn any_value_of_any_variable_is_read_or_refused(key in proptest::sample::select(in_file()), value in any::<String>()) {
        let _ = signed_in("", &[(key.variable().as_str(), value.as_str())]);
    }
}
