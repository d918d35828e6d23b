//! The reference of all keys, generated from the key table for `config/README.md`.

use std::fmt::Write as _;

use super::env::variable;
use super::section::SECTIONS;

/// A Markdown table for each section: key, default, range, meaning, and what a change requires; and
/// the other variables that are read.
///
/// The page contains it between `<!-- config:begin -->` and `<!-- config:end -->`; a test compares
/// the two.
pub fn reference() -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out);
    out
}

fn write(out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "Every key can also be set by an environment variable, which wins over the file: `DEFENDER_GATEWAY_<SECTION>_<KEY>` in capitals, \
         lists separated by commas. Durations are a whole number with `ms`, `s`, `m`, `h` or `d`; sizes with `B`, `KiB`, `MiB`, `GiB`, \
         `KB`, `MB` or `GB`. `{}` names the file when `--config` does not. A changed file is taken over by the running gateway where the last \
         column says *live*; for the rest it asks for a restart.",
        variable::CONFIG
    )?;
    for section in SECTIONS {
        writeln!(out, "\n**`[{}]`**: {}\n", section.name, section.doc)?;
        writeln!(
            out,
            "| key | default | allowed | meaning | change |\n|---|---|---|---|---|"
        )?;
        for key in section.keys {
            let default = if key.in_file() {
                format!("`{}`", key.fallback)
            } else {
                "none".into()
            };
            let also = match key.borrowed {
                [] => String::new(),
                names => format!(" Else `{}` is read.", names.join("`, `")),
            };
            let name = if key.in_file() {
                key.name.to_owned()
            } else {
                key.variable()
            };
            let change = key.reload().as_str();
            writeln!(
                out,
                "| `{name}` | {default} | {} | {}{also} | {change} |",
                key.kind, key.doc
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::key::keys;

    #[test]
    fn every_key_has_a_row_of_five_cells() {
        let text = reference();
        for key in keys() {
            let name = if key.in_file() {
                key.name.to_owned()
            } else {
                key.variable()
            };
            let row = text
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` |")))
                .unwrap();
            assert_eq!(row.matches('|').count(), 6, "{row}");
        }
    }
}
