#!/usr/bin/env bash
# Every fuzz target from its corpus and seeds, FUZZ_SECONDS each (45): no crash, no hang, no 2 GiB.
set -euo pipefail
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-fuzz
rustup run nightly rustc --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
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
  cargo +nightly fuzz run "$target" "$corpus" ${seeds:+"$seeds"} -- \
    ${words:+-dict="$words"} -max_total_time="${FUZZ_SECONDS:-45}" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
