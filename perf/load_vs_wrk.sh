#!/usr/bin/env bash
# What moorgate-load spends per request beside wrk: builds it, runs both, writes
# perf/results/load_vs_wrk.md. Options are those of perf/load_vs_wrk.py (--rounds, --seconds, ...).
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release -p moorgate-load
exec python3 perf/load_vs_wrk.py "$@"
