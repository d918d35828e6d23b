#!/usr/bin/env bash
# Builds the binary that goes into the image: one static file, the same wherever it is built. Prints its path, and nothing else, to
# stdout. Needs Rust and a C compiler.
#
#   deploy/build-static.sh [PROFILE]     PROFILE is one of Cargo.toml's; without it, `release`, as the image has it
set -euo pipefail
cd "$(dirname "$0")/.."

profile="${1:-release}"
host="$(rustc -vV | sed -n 's/^host: //p')"
flags=(
  # The C library inside: the image needs no other file.
  -C target-feature=+crt-static
  # The standard back end looks its system call up dynamically, which a static binary in an empty root cannot do.
  --cfg 'getrandom_backend="linux_getrandom"'
  # Where it was built does not show.
  "--remap-path-prefix=$PWD=/src" "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
)
# Names come from the hosts file and DNS, which the C library has inside, whatever nsswitch.conf says: the modules that
# it names are for the host's own C library, and two in one process crash. (Others than GNU's have no modules.)
names=()
if [[ "$host" = *-gnu* ]]; then
  mkdir -p target/static
  cc -O2 -fPIC -c -x c -o target/static/names.o - <<'C'
#include <nss.h>
__attribute__((constructor)) static void names(void) { __nss_configure_lookup("hosts", "files dns"); }
C
  names=(-C link-arg=target/static/names.o)
fi
CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f'; echo "${flags[*]}")"
export CARGO_ENCODED_RUSTFLAGS CARGO_INCREMENTAL=0
# When it was built does not show either: the allocator's C code holds the time of its compilation otherwise.
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"
unset RUSTFLAGS
# With cargo-auditable the binary names what it is made of (`cargo audit bin` and image scanners read that); without, it is the same
# otherwise, but not byte for byte.
build=(rustc)
command -v cargo-auditable >/dev/null && build=(auditable rustc)
cargo "${build[@]}" --locked --profile "$profile" --quiet --bin defender-gateway --target "$host" --target-dir target/static -- "${names[@]}" >&2
echo "$PWD/target/static/$host/$profile/defender-gateway"
