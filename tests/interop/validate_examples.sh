#!/usr/bin/env bash
# Every example must be a configuration that a real Envoy accepts, and so must Moorgate.
#   [MOORGATE_BIN=...] [ENVOY_BIN=...] tests/interop/validate_examples.sh
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
envoy=${ENVOY_BIN:-$PWD/.peers/envoy}
moorgate=${MOORGATE_BIN:-$PWD/target/release/moorgate}
[ -x "$envoy" ] || { echo "no Envoy at $envoy: run perf/install-peers.sh"; exit 1; }
[ -x "$moorgate" ] || { echo "no Moorgate at $moorgate: cargo build --release"; exit 1; }
bad=0
check() {
  local out
  if out=$("$2" --mode validate -c "$3" -l error 2>&1); then
    echo "ok   $1 $3"
  else
    echo "BAD  $1 $3: $out"
    bad=$((bad + 1))
  fi
}
for example in examples/*.yaml; do
  check envoy "$envoy" "$example"
  check moorgate "$moorgate" "$example"
done
[ "$bad" -eq 0 ]
