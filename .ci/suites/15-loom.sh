#!/bin/sh
# Checks the protocols between workers under every interleaving (loom).
set -eu
cd "$(dirname "$0")/../.."
export RUSTFLAGS="--cfg loom"
exec cargo test -p moorgate --lib --target-dir target/loom loom_tests
