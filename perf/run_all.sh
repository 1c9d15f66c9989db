#!/usr/bin/env bash
# Every measurement, side by side; results in perf/results. About 90 minutes; nothing else should run.
#   perf/run_all.sh            needs: cargo, and perf/install-peers.sh (which it runs)
set -euo pipefail
cd "$(dirname "$0")/.."
perf/install-peers.sh
cargo build --release --bin moorgate
cargo build --release --locked --manifest-path perf/floor/Cargo.toml
python3 perf/run_cpu.py
python3 perf/run_tls.py
python3 perf/run_http2.py
python3 perf/run_grpc.py
python3 perf/run_messages.py
python3 perf/run_latency.py
python3 perf/run_storm.py
python3 perf/run_memory.py
# The table of where the time goes is of our own code against the floor; it needs linux-perf.
if command -v perf >/dev/null; then
  python3 perf/run_profile.py
else
  echo 'run_all: no profile: linux-perf is not installed'
fi
