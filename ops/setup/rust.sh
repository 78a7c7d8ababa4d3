#!/usr/bin/env bash
# Checks that the Rust toolchain is new enough. It is not installed from here: Debian 12's own (1.63) is too old, and a
# toolchain belongs to the user, not to a project.
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml")
# rustup installs here, and a non-login shell may not have it in PATH.
export PATH=$PATH:$HOME/.cargo/bin

command -v cargo >/dev/null ||
    die "no cargo: install Rust $wanted or newer with rustup (https://rustup.rs), open a new shell and run again"
found=$(rustc --version | cut -d' ' -f2)
[[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n1) == "$wanted" ]] ||
    die "Rust $found is too old: $wanted or newer is needed; run 'rustup update stable' (Debian's own package is too old)"
say "ready: Rust $found"
