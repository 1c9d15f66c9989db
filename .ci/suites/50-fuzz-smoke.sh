#!/usr/bin/env bash
# Every fuzz target from its seeds, with FUZZ_RUNS inputs (60,000) drawn from a fixed seed, so that the
# same tree gives the same answer, or as many as a minute takes; FUZZ_SECONDS, as .ci/long sets it, fuzzes that long from a random
# seed instead. No crash, no hang, no 2 GiB.
set -euo pipefail
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz
rustup run nightly rustc --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
if [ -n "${FUZZ_SECONDS:-}" ]; then
  bound="-max_total_time=$FUZZ_SECONDS"
else
  bound="-runs=${FUZZ_RUNS:-60000} -max_total_time=60 -seed=1"
fi
for target in $(cargo +nightly fuzz list); do
  corpus=fuzz/corpus/$target
  mkdir -p "$corpus"
  seeds=fuzz/seeds/$target
  [ "$target" != http1_roundtrip ] || seeds=fuzz/seeds/http1_request
  [ "$target" != config ] || seeds=examples
  [ -d "$seeds" ] || seeds=
  words=fuzz/$target.dict
  [ -f "$words" ] || words=
  echo "fuzz target $target"
  # shellcheck disable=SC2086 # the bound is several words
  cargo +nightly fuzz run "$target" "$corpus" ${seeds:+"$seeds"} -- \
    ${words:+-dict="$words"} $bound -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
