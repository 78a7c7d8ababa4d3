#!/usr/bin/env bash
# Fuzzes what reads files of users, with coverage as the guide and AddressSanitizer as the watch:
#
#   run.sh [SECONDS [TARGET..]]     60 seconds of each target when nothing is said
#
# Starts from corpus/TARGET and keeps what it learns under target/. An input that breaks a promise is written to
# findings/TARGET-.., and the run ends: fix it, keep the input in corpus/TARGET, where a test of flowai-model reads it.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

seconds=${1:-60}
shift || true
targets=("$@")
((${#targets[@]})) || targets=(safetensors_gate adapter_keys model_configs picture_gate)
triple=$(rustc -vV | sed -n 's/^host: //p')
build=${CARGO_TARGET_DIR:-$PWD/target}/fuzz

# What cargo-fuzz passes. -Z needs the bootstrap switch on a stable compiler; build scripts stay as they are, because a
# target triple is named.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
cargo build --release --quiet --target "$triple" --target-dir "$build"

# A picture may hold 160 MB of pixels, twice for a moment; the sanitizer keeps freed memory a while.
for target in "${targets[@]}"; do
    mkdir -p "$build/corpus/$target" findings
    case $target in
    picture_gate) options=(-max_len=65536 -rss_limit_mb=3072) ;;
    *) options=(-max_len=16384 -rss_limit_mb=2048) ;;
    esac
    [[ -f dictionaries/$target ]] && options+=("-dict=dictionaries/$target")
    printf '%s: %s seconds\n' "$target" "$seconds"
    "$build/$triple/release/$target" "$build/corpus/$target" "corpus/$target" "${options[@]}" \
        -max_total_time="$seconds" -timeout=10 -print_final_stats=1 -artifact_prefix="findings/$target-" 2>&1 |
        tee "$build/$target.log" | grep -E '^(==|SUMMARY|stat::|Done|artifact|thread|panicked|MS:)|panicked|pulse|ERROR' || true
    grep -q '^Done' "$build/$target.log" || {
        printf '%s: a promise is broken; see %s and findings/\n' "$target" "$build/$target.log" >&2
        exit 1
    }
done
