//! What the scripts ask of a server, which may be Redis 6.0: the newest that some managed tiers
//! have.

use std::path::{Path, PathBuf};

/// Commands and options of commands that Redis 6.0 knows, each in the form in which it stands in a
/// script. A word that came later, like `GT` and `PXAT` in 6.2, has no place here.
const KNOWN: &[&str] = &[
    "DEL",
    "GET",
    "GETRANGE",
    "HDEL",
    "HGET",
    "HKEYS",
    "HLEN",
    "HSET",
    "INFO",
    "LIMIT",
    "NX",
    "PERSIST",
    "PEXPIRE",
    "PEXPIREAT",
    "PTTL",
    "PUBLISH",
    "PX",
    "SADD",
    "SCARD",
    "SET",
    "SREM",
    "STRLEN",
    "TIME",
    "WITHSCORES",
    "ZADD",
    "ZCARD",
    "ZCOUNT",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZREM",
    "ZREMRANGEBYRANK",
    "ZREMRANGEBYSCORE",
    "ZREVRANGE",
    "ZSCORE",
    "ZUNIONSTORE",
];

fn scripts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scripts(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "lua") {
            found.push(path);
        }
    }
}

#[test]
fn scripts_need_no_command_and_no_option_that_redis_6_0_lacks() {
    let mut found = Vec::new();
    scripts(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    // The format before this one is no longer run.
    found.retain(|path| !path.ends_with("tests/v1.lua"));
    assert!(found.len() >= 10, "{found:?}");
    for path in found {
        let text = std::fs::read_to_string(&path).unwrap();
        // What stands between two apostrophes, and some text between two such.
        let words = text.split('\'').map(str::trim);
        let words = words.filter(|word| word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase()));
        for word in words {
            assert!(KNOWN.contains(&word), "{word} in {}", path.display());
        }
    }
}
