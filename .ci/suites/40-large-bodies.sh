#!/usr/bin/env bash
# Bodies of 2 GiB up and down through a release build: every byte hashed, memory flat.
set -euo pipefail
cd "$(dirname "$0")/../.."
perf/install-peers.sh
cargo build --release --locked --bin moorgate
MOORGATE_BIN=$PWD/target/release/moorgate python3 tests/interop/large_bodies.py
