//! The README's reference of keys and the stored schema are the generated ones.

use std::fs;
use std::path::Path;

#[test]
fn the_readme_holds_the_generated_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).expect("there is a README.md");
    let (_, rest) = readme
        .split_once("<!-- config:begin -->\n")
        .expect("the README has <!-- config:begin -->");
    let (block, _) = rest
        .split_once("<!-- config:end -->")
        .expect("the README has <!-- config:end -->");
    assert!(
        block.trim() == defender_gateway::config::reference().trim(),
        "the README's reference is out of date; `defender-gateway reference` prints the new one"
    );
}

#[test]
fn the_stored_schema_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.schema.json");
    assert!(
        fs::read_to_string(path).unwrap() == defender_gateway::config::schema(),
        "config/gateway.schema.json is out of date; `defender-gateway check --schema` prints the new one"
    );
}
