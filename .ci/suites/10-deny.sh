#!/usr/bin/env bash
# Licences, banned crates and sources of every dependency, and advisories against them (deny.toml).
set -euo pipefail
# A debug build: it runs for a second, and is built in a third of the time.
cargo deny --version >/dev/null 2>&1 || cargo install --locked --quiet --debug cargo-deny
cargo deny --workspace check licenses bans sources
# The advisory database is a git repository, not a registry: behind a firewall it cannot be had.
if timeout 60 git ls-remote --quiet https://github.com/RustSec/advisory-db HEAD >/dev/null 2>&1; then
  cargo deny --workspace check advisories
else
  echo 'ADVISORIES NOT CHECKED: the database at github.com/RustSec/advisory-db cannot be reached'
fi
