#!/usr/bin/env bash
# The chaos build: real workers over loopback sockets that park, steal and move at every legal point while
# every byte of both directions is compared; then the same under ThreadSanitizer.
set -euo pipefail
cd "$(dirname "$0")/../.."
test=(-p moorgate --lib chaos_conserves -- --nocapture)
MOORGATE_CHAOS_SEEDS=${MOORGATE_CHAOS_SEEDS:-40} RUSTFLAGS="--cfg chaos" \
  cargo test --target-dir target/chaos "${test[@]}"
rustup run nightly rustc --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
rustup component add rust-src --toolchain nightly >/dev/null 2>&1 || true
# The standard library is built too: an uninstrumented one would hide its own synchronisation.
MOORGATE_CHAOS_SEEDS=${MOORGATE_TSAN_SEEDS:-10} RUSTFLAGS="--cfg chaos -Zsanitizer=thread" \
  TSAN_OPTIONS="suppressions=$PWD/.ci/tsan.supp halt_on_error=1" \
  cargo +nightly test --target-dir target/tsan -Zbuild-std --target x86_64-unknown-linux-gnu "${test[@]}"
