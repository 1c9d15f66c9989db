#!/usr/bin/env bash
# The chaos build: real workers over loopback sockets that park, steal and move at every legal point while
# every byte of both directions is compared.
set -euo pipefail
cd "$(dirname "$0")/../.."
export MOORGATE_CHAOS_SEEDS=${MOORGATE_CHAOS_SEEDS:-60}
RUSTFLAGS="--cfg chaos" exec cargo test --target-dir target/chaos -p moorgate --lib chaos_conserves -- --nocapture
