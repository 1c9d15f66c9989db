#!/usr/bin/env bash
# The whole gateway in the simulator, MOORGATE_SEEDS seeds (10,000), optimised and with every assertion.
# A seed that fails says how to run it alone.
set -euo pipefail
seeds=${MOORGATE_SEEDS:-10000}
run=(cargo test --quiet --profile seeds -p moorgate --lib)
"${run[@]}" --no-run
# A process for each core and not a thread: what all do is map and unmap memory, and threads would wait
# for each other there.
cores=$(nproc)
share=$(((seeds + cores - 1) / cores))
runs=()
for ((core = 0; core < cores; core++)); do
  MOORGATE_FIRST_SEED=$((core * share)) MOORGATE_SEEDS=$share \
    taskset -c "$core" "${run[@]}" proxy::tests::sim -- --nocapture &
  runs+=($!)
done
failed=0
for run in "${runs[@]}"; do wait "$run" || failed=1; done
exit "$failed"
