#!/usr/bin/env bash
# Everything black-box against one binary: MOORGATE_BIN=path tests/interop/run.sh
# Needs perf/install-peers.sh to have run. Ends with 1 if any script found something.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export MOORGATE_BIN=${MOORGATE_BIN:-$PWD/target/release/moorgate}
bad=0
run() { echo "== $*"; "$@" || { echo "== FAILED: $*"; bad=$((bad + 1)); }; }
# The peers' Python, which has grpcio.
run .peers/venv/bin/python -m unittest discover -s tests/interop
run python3 tests/interop/smuggling.py
run python3 tests/interop/differential.py
run python3 tests/interop/chains.py
run python3 tests/interop/admin_shapes.py
run tests/interop/validate_examples.sh
echo "interop: $bad of 6 scripts failed"
[ "$bad" -eq 0 ]
