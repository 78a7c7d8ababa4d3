#!/usr/bin/env bash
# Makes sure of a Rust toolchain that is new enough. Where there is none at all, rustup installs one for this user, as
# https://rustup.rs says; one that is too old is left to whoever chose it. Debian 12's own (1.63) is too old.
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$ROOT/Cargo.toml")
# rustup installs here, and a non-login shell may not have it in PATH.
export PATH=$PATH:$HOME/.cargo/bin

if ! command -v cargo >/dev/null; then
    say "installing Rust with rustup into ~/.cargo and ~/.rustup"
    installer=$(mktemp)
    trap 'rm -f -- "$installer"' EXIT
    curl --proto '=https' --tlsv1.2 --silent --show-error --fail --location --output "$installer" https://sh.rustup.rs ||
        die "rustup cannot be fetched: install Rust $wanted or newer yourself and run again"
    sh "$installer" -y --quiet --profile minimal --component clippy,rustfmt --no-modify-path
fi
found=$(rustc --version | cut -d' ' -f2)
[[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n1) == "$wanted" ]] ||
    die "Rust $found is too old: $wanted or newer is needed; run 'rustup update stable' (Debian's own package is too old)"
say "ready: Rust $found"
