#!/usr/bin/env bash
# Prepares the queues that `make bench-peers` runs beside FlowAI, each in an environment of its own, linked as .peers.
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

source=$ROOT/benches/peers
target=$CACHE/peers

# python NAME: .peers/NAME/bin/python with what NAME/requirements.txt pins.
python() {
    python3 -m venv --clear "$target/$1" || die "python3 has no venv: run ops/setup/debian.sh"
    "$target/$1/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$source/$1/requirements.txt"
}

# node NAME: .peers/NAME/node_modules with what NAME/package-lock.json pins.
node() {
    rm -rf -- "${target:?}/$1"
    mkdir -p -- "$target/$1"
    cp -- "$source/$1/package.json" "$source/$1/package-lock.json" "$target/$1/"
    npm ci --prefix "$target/$1" --no-audit --no-fund --loglevel=error
}

# rust NAME: .peers/NAME/bin/NAME, built with what NAME/Cargo.lock pins.
rust() {
    # Built in the cache: dependencies stay there for the next change of the program.
    CARGO_TARGET_DIR=$target/$1/target cargo install --quiet --locked --path "$source/$1" --root "$target/$1" --force
}

# peer KIND NAME: only when what it is made from has changed.
peer() {
    local stamp=$target/$2.sha256 wanted
    wanted=$(find "$source/$2" -type f ! -name 'peer.*' | sort | xargs cat -- | sha256sum)
    [[ $(cat -- "$stamp" 2>/dev/null) != "$wanted" ]] || return 0
    say "installing $2"
    rm -f -- "$stamp"
    "$1" "$2"
    echo "$wanted" >"$stamp"
}

[[ -x /usr/bin/node ]] || die "/usr/bin/node is missing, with which the bench runs three of the queues: install Node 20 with npm"
lock peers
mkdir -p -- "$target"
for name in celery rq dramatiq procrastinate pgmq; do peer python "$name"; done
for name in pg-boss graphile-worker bullmq; do peer node "$name"; done
peer rust apalis
# Beside their packages, where Node looks for them.
for name in celery rq dramatiq procrastinate pgmq pg-boss graphile-worker bullmq; do cp -- "$source/$name"/peer.* "$target/$name/"; done
cp -- "$source"/producer.* "$target/"
link .peers "$target"
say "ready: $(find "$source" -mindepth 1 -maxdepth 1 -type d | wc -l) queues"
