#!/usr/bin/env bash
# The whole gateway in the simulator, MOORGATE_SEEDS seeds (10,000), optimised and with every assertion,
# on every core. A seed that fails says how to run it alone.
set -euo pipefail
export MOORGATE_SEEDS=${MOORGATE_SEEDS:-10000}
exec cargo test --profile seeds -p moorgate --lib proxy::tests::sim -- --nocapture
