# Sourced by every set-up script: where things go, and the few helpers that all of them need.
# shellcheck shell=bash

set -euo pipefail

# The checkout, whatever folder the caller stands in.
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
# Everything large lives here, outside the checkout, and is shared by all checkouts of this user.
CACHE=${FLOWAI_CACHE:-$HOME/.cache/flowai}

say() { printf '%s: %s\n' "$(basename -- "$0" .sh)" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# link NAME TARGET: makes ROOT/NAME point to TARGET, replacing an older link in one step.
link() {
    local name=$ROOT/$1 target=$2
    if [[ $(readlink -- "$name" 2>/dev/null) == "$target" ]]; then
        return
    fi
    [[ -L $name || ! -e $name ]] || die "$name is in the way: it must be a link; move it and run again"
    ln -s -- "$target" "$name.$$"
    mv -T -- "$name.$$" "$name"
    say "linked $1 -> $target"
}

# lock NAME: at most one script at a time prepares NAME in the cache; released when the script ends.
lock() {
    mkdir -p -- "$CACHE"
    exec 9>"$CACHE/$1.lock"
    flock -n 9 || {
        say "waiting for another set-up of $1"
        flock 9
    }
}

# pip_python: prints a python3 whose pip works. Debian's python3 comes without pip, so a small venv stands in.
pip_python() {
    if python3 -m pip --version >/dev/null 2>&1; then
        echo python3
        return
    fi
    local venv=$CACHE/pip
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python3 -m venv --clear "$venv" || die "python3 has neither pip nor venv: run ops/setup/debian.sh"
    fi
    echo "$venv/bin/python"
}
