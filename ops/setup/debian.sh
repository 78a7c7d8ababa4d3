#!/usr/bin/env bash
# Installs the Debian packages that are missing. `debian.sh demo`: what building and running the farm needs;
# `debian.sh test`: also what the tests need; `debian.sh peers`: also what the comparison with other queues needs. Asks dpkg
# first, so it needs neither network nor root when nothing is missing.
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

packages=(
    build-essential pkg-config        # torch-sys and other crates that build C and C++
    clang libclang-dev                # bindgen, for ffmpeg's headers
    ffmpeg libavcodec-dev libavdevice-dev libavfilter-dev libavformat-dev libavutil-dev libswresample-dev libswscale-dev
    postgresql redis-server           # the embedded parts run these programs
    python3 python3-venv              # unpacks libtorch; makes the oracle's environment
    ca-certificates curl              # fetches rustup where there is no Rust
)
case ${1:-test} in
demo) ;;
test) packages+=(iproute2 iptables e2fsprogs libfaketime) ;; # tests that cut the network between hosts, fill disks and set clocks
peers) packages+=(strace) ;;           # counts the syncs of Redis
*) die "usage: debian.sh [demo|test|peers]" ;;
esac

missing=()
for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null) == "ii " ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
    say "ready: nothing is missing"
    exit
fi

command -v apt-get >/dev/null || die "this is not a Debian: install what corresponds to: ${missing[*]}"
sudo=()
if ((EUID != 0)); then
    command -v sudo >/dev/null || die "run as root: apt-get install ${missing[*]}"
    sudo=(sudo)
fi

# A server that somebody set up before is theirs, whichever package brought it.
servers_before=()
if [[ -d /run/systemd/system ]]; then
    for service in postgresql redis-server; do
        if systemctl cat "$service" >/dev/null 2>&1; then
            servers_before+=("$service")
        fi
    done
fi

say "installing ${missing[*]}"
apt_get=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
"${apt_get[@]}" update
# dpkg has a line for each package and each step, which nobody reads unless it fails.
log=$(mktemp)
trap 'rm -f -- "$log"' EXIT
if ! "${apt_get[@]}" install --yes --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    cat -- "$log" >&2
    die "apt-get could not install them; what it said stands above"
fi

# The farm starts its own PostgreSQL and Redis: servers that came only with the packages are switched off again.
if [[ -d /run/systemd/system ]]; then
    for service in postgresql redis-server; do
        if [[ " ${servers_before[*]} " != *" $service "* ]] && systemctl cat "$service" >/dev/null 2>&1; then
            say "switching off the system's $service, which was not here before"
            "${sudo[@]}" systemctl disable --quiet --now "$service"
        fi
    done
fi
say "ready"
