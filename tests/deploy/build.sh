#!/usr/bin/env bash
# Builds the binary that goes into the image: one static file. Prints its path, and nothing else, to stdout.
#
# With +crt-static the C library is inside. The standard getrandom back end looks its system call up dynamically, which a static
# binary in an empty root cannot do; linux_getrandom makes the call directly.
set -euo pipefail
cd "$(dirname "$0")/../.."

target="$(rustc -vV | sed -n 's/^host: //p')"
export RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"'
cargo build --locked --release --quiet --bin defender-gateway --target "$target" --target-dir target/static >&2
echo "$PWD/target/static/$target/release/defender-gateway"
