#!/bin/sh
# Vendors and generates everything anew and fails if a checked-in file changes.
set -eu
cd "$(dirname "$0")/../.."
cargo run --quiet --locked --manifest-path protos/generator/Cargo.toml -- vendor
changed=$(git status --porcelain -- protos/proto protos/src/gen)
if [ -n "$changed" ]; then
    echo "generated files are not what the generator makes:" >&2
    echo "$changed" >&2
    exit 1
fi
echo "generated files are current"
