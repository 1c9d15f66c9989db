#!/usr/bin/env bash
# Rules of the house that no compiler checks. Prints each place that breaks one.
set -uo pipefail
bad=0
rule() {
  local why=$1 found=$2
  if [ -n "$found" ]; then
    printf '%s\n%s\n' "$why" "$found"
    bad=1
  fi
}
# Rust lines outside of test modules: everything up to the first #[cfg(test)] that opens a module.
product() {
  git ls-files "$@" | grep '\.rs$' | grep -vE '(^|/)(tests?|testing)(\.rs$|/)' | while read -r file; do
    awk -v file="$file" '
      { test_mod = cfg_test && /^[[:space:]]*(pub(\([a-z]+\))? )?mod [a-z_]+ *\{/ }
      test_mod { exit }
      { cfg_test = /^[[:space:]]*#\[cfg\((all\()?test/ }
      !/^[[:space:]]*\/\// { print file ":" FNR ": " $0 }' "$file"
  done
}
rule 'The clock is handed in: only the reactor, the control thread, the log thread and programs ask it.' \
  "$(product codecs/src src/proxy src/filter src/route src/cluster | grep -E '(Instant|SystemTime)::now\(')"
rule 'Codecs are sans-IO: no socket, no thread, no file.' \
  "$(product codecs/src | grep -E 'std::(net::(Tcp|Udp)|thread|fs|os)\b')"
rule 'No worker sleeps.' \
  "$(product src/engine src/proxy src/filter src/route src/cluster | grep -E 'thread::sleep\(')"
rule 'Unfinished or switched off.' \
  "$(git grep -nE 'todo!\(|unimplemented!\(|#\[ignore|TODO|FIXME|XXX' -- '*.rs' ':!protos/src')"
exit "$bad"
