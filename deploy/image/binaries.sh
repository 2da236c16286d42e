#!/usr/bin/env bash
# Builds what the image contains: gateway (with the feature `kubernetes`), worker and swarm, each one
# static file that needs nothing of the system it runs on.
#
#   deploy/image/binaries.sh OUT
#
# The same for the Dockerfile and for oci.sh. The target is named although it is this machine's, since
# flags are then not for what runs during the build. swarm is built by itself: its crate asks for
# features of the others that these must not have.
set -euo pipefail

out=${1:?usage: $0 OUT}
cd "$(dirname "$0")/../.."
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="-C target-feature=+crt-static"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/static}

build() { cargo build --profile image --locked --target "$host" "$@"; }
build -p single-state-gateway -p single-state-worker --bins \
  --features single-state-gateway/kubernetes
build -p single-state-tests --bin swarm

mkdir -p "$out"
for program in gateway worker swarm; do
  install -m 755 "$CARGO_TARGET_DIR/$host/image/$program" "$out/$program"
done
ls -l "$out" | awk 'NR > 1 { printf "%-8s %6.1f MB\n", $9, $5 / 1e6 }'
