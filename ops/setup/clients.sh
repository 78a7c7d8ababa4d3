#!/usr/bin/env bash
# Prepares the official openai clients that the tests of /openai/v1 run, linked as .clients:
# .clients/bin/python imports openai; .clients/bin/node finds it with NODE_PATH=.clients/node_modules.
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

target=$CACHE/clients
source=$ROOT/ops/setup/clients
stamp=$target/source.sha256

lock clients
wanted=$(cat -- "$source"/* | sha256sum)
if [[ $(cat -- "$stamp" 2>/dev/null) != "$wanted" ]]; then
    say "installing the openai clients for Python and JavaScript in $target"
    python3 -m venv --clear "$target" || die "python3 has no venv: run ops/setup/debian.sh"
    "$target/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$source/requirements.txt"
    cp -- "$source/package.json" "$source/package-lock.json" "$target/"
    PATH=$target/bin:$PATH npm ci --prefix "$target" --no-audit --no-fund --loglevel=error
    echo "$wanted" >"$stamp"
fi
link .clients "$target"
say "ready: openai for Python and JavaScript"
