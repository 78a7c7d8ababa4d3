#!/usr/bin/env bash
# Prepares the Python oracle: the environment in which parity tests and benchmarks run diffusers, linked as .oracle.
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

target=$CACHE/oracle
requirements=$ROOT/ops/setup/oracle-requirements.txt
stamp=$target/requirements.sha256

lock oracle
wanted=$(sha256sum <"$requirements")
if [[ $(cat -- "$stamp" 2>/dev/null) != "$wanted" ]]; then
    rm -f -- "$stamp"
    if ! "$target/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making a Python environment in $target"
        python3 -m venv --clear "$target" || die "python3 has no venv: run ops/setup/debian.sh"
    fi
    say "installing torch, diffusers and peft (4.7 GB the first time)"
    # The environment keeps only what it unpacked: a second copy of the wheels in pip's cache would cost 2 GB more.
    "$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
        --requirement "$requirements"
    "$target/bin/python" -c 'import accelerate, diffusers, numpy, peft, PIL, safetensors, torch, transformers' ||
        die "the oracle does not import: remove $target and run again"
    echo "$wanted" >"$stamp"
fi
link .oracle "$target"
say "ready: $("$target/bin/python" -V), diffusers $(sed -n 's/^diffusers==//p' "$requirements")"
