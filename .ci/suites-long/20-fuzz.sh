#!/usr/bin/env bash
# The same as for every change, for as long as .ci/long asks for.
exec bash .ci/suites/50-fuzz-smoke.sh
