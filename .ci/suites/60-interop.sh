#!/usr/bin/env bash
# Real clients and servers, smuggling shapes, and every answer beside a real Envoy's.
set -euo pipefail
cd "$(dirname "$0")/../.."
perf/install-peers.sh
cargo build --release --locked -p moorgate -p moorgate-load --bin moorgate --bin moorgate-load
MOORGATE_BIN=$PWD/target/release/moorgate tests/interop/run.sh
