//! The reference of keys in config/README.md and the stored schema are the generated ones.

use std::fs;
use std::path::Path;

#[test]
fn the_page_holds_the_generated_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/README.md");
    let page = fs::read_to_string(path).expect("there is a config/README.md");
    let (_, rest) = page
        .split_once("<!-- config:begin -->\n")
        .expect("the page has <!-- config:begin -->");
    let (block, _) = rest
        .split_once("<!-- config:end -->")
        .expect("the page has <!-- config:end -->");
    assert!(
        block.trim() == defender_gateway::testing::config::reference().trim(),
        "the reference in config/README.md is out of date; `defender-gateway reference` prints the new one"
    );
}

#[test]
fn the_stored_schema_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/gateway.schema.json");
    assert!(
        fs::read_to_string(path).unwrap() == defender_gateway::testing::config::schema(),
        "config/gateway.schema.json is out of date; `defender-gateway check --schema` prints the new one"
    );
}
