#!/usr/bin/env bash
# Everything a fresh machine needs. `all.sh demo`: to build and run the farm; `all.sh test`: also to run every test.
# Runs again in a moment: each script looks first and does only what is missing.
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

here=$ROOT/ops/setup
profile=${1:-test}

"$here/debian.sh" "$profile"
"$here/rust.sh"
"$here/libtorch.sh"
if [[ $profile == test ]]; then
    "$here/oracle.sh"
    "$here/clients.sh"
fi
