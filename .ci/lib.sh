# shellcheck shell=bash
# Shared by .ci/run and .ci/long: runs steps, times them, counts them. To be sourced, with
# LIMIT_SECONDS set to what the whole run may take.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export CARGO_TERM_COLOR=never RUST_BACKTRACE=1

passed=0
failed=0
failures=()

# step NAME COMMAND...: runs it, whatever came before. A step that does not end in what is left of the
# time is a step that failed.
step() {
  local name=$1 start=$SECONDS left=$((LIMIT_SECONDS - SECONDS)) code=124
  shift
  printf '\n=== %s: %s\n' "$name" "$*"
  if [ "$left" -gt 0 ]; then
    timeout --kill-after=30 "$left" "$@"
    code=$?
  fi
  if [ "$code" -eq 0 ]; then
    passed=$((passed + 1))
    printf -- '--- %s: ok, %d s\n' "$name" $((SECONDS - start))
  else
    failed=$((failed + 1))
    failures+=("$name")
    [ "$code" -ne 124 ] || printf 'out of time: %d s for the whole run\n' "$LIMIT_SECONDS"
    printf -- '--- %s: FAILED (%d), %d s\n' "$name" "$code" $((SECONDS - start))
  fi
}

# suites DIR: one step for each script in it, in the order of their names.
suites() {
  local script
  for script in "$1"/*.sh; do
    [ -e "$script" ] && step "$(basename "$script" .sh)" bash "$script"
  done
}

# The last line of every run is "N passed, M failed".
finish() {
  printf '\ntotal: %d s\n' "$SECONDS"
  [ ${#failures[@]} -eq 0 ] || printf 'failed: %s\n' "${failures[*]}"
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ]
}
