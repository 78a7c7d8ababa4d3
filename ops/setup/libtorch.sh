#!/usr/bin/env bash
# Prepares the libtorch that every crate builds and runs against, and links it as .libtorch in the checkout.
# `libtorch.sh cpu`, or `libtorch.sh cuda` for a machine with a GPU; without a word, what the checkout had, at first cpu.
#
# PyPI has no CPU build of torch for Linux, and its CUDA build is 4.7 GB when installed. A CPU machine needs five of its
# libraries, two small CUDA libraries that libtorch_cpu.so names, and the headers: about 500 MB. The wheel's own
# libtorch.so needs libtorch_cuda.so, so an empty one that needs only libtorch_cpu.so takes its place.
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

version=2.11.0
flavour=${1:-}
if [[ -z $flavour ]]; then
    # make calls this script before every build and must not undo the choice of a machine with a GPU.
    case $(readlink -- "$ROOT/.libtorch" 2>/dev/null) in
        *-cuda) flavour=cuda ;;
        *) flavour=cpu ;;
    esac
fi
[[ $flavour == cpu || $flavour == cuda ]] || die "say cpu or cuda (got $flavour)"
target=$CACHE/libtorch-$version-$flavour

[[ $(uname -sm) == "Linux x86_64" ]] || die "only Linux on x86-64 is supported (this is $(uname -sm))"

# CUDA needs the whole of torch and its CUDA packages, 4.7 GB, which is what the oracle's environment holds.
if [[ $flavour == cuda ]]; then
    "$ROOT/ops/setup/oracle.sh"
    read -r found torch < <("$CACHE/oracle/bin/python" -c '
import importlib.metadata, importlib.util
print(importlib.metadata.version("torch").split("+")[0], *importlib.util.find_spec("torch").submodule_search_locations)')
    [[ $found == "$version" ]] || die "the oracle has torch $found, the engine needs $version: make them one version"
    [[ -e $torch/lib/libtorch_cuda.so ]] || die "$torch is a build without CUDA: install the one from PyPI"
    lock "$(basename -- "$target")"
    # Links and not copies: the libraries find CUDA's own beside the place where they really lie.
    mkdir -p -- "$target"
    ln -sfn -- "$torch/lib" "$target/lib"
    ln -sfn -- "$torch/include" "$target/include"
    echo "$version" >"$target/build-version"
    link .libtorch "$target"
    say "ready: libtorch $version for CUDA (needs the GPU's driver, no CUDA toolkit)"
    exit
fi

lock "$(basename -- "$target")"
if [[ ! -f $target/build-version ]]; then
    command -v cc >/dev/null || die "no C compiler (cc): run ops/setup/debian.sh"
    python=$(pip_python)

    # Beside the target, so that the move at the end is one rename: an interrupted run leaves no half-filled target.
    rm -rf -- "$target".part.*
    part=$(mktemp -d -- "$target.part.XXXXXX")
    trap 'rm -rf -- "$part"' EXIT

    say "downloading torch $version and two CUDA libraries (about 550 MB)"
    # The libraries do not depend on the Python version, so one wheel with one hash serves every python3.
    "$python" -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --dest "$part/wheels" \
        --python-version 3.11 --implementation cp --abi cp311 --abi none \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 \
        --requirement "$ROOT/ops/setup/libtorch-requirements.txt"

    say "unpacking what a CPU needs"
    mkdir -p -- "$part/libtorch/lib"
    "$python" - "$part/wheels" "$part/libtorch" <<'PYTHON'
import pathlib, shutil, sys, zipfile

wheels, target = map(pathlib.Path, sys.argv[1:])
libraries = {
    "torch/lib/libtorch_cpu.so", "torch/lib/libc10.so", "torch/lib/libgomp.so.1",
    "torch/lib/libshm.so", "torch/lib/libtorch_global_deps.so",
    "nvidia/cu13/lib/libcudart.so.13", "nvidia/cu13/lib/libcupti.so.13",
}
headers = "torch/include/"
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as members:
        for member in members.infolist():
            name = member.filename
            if name in libraries:
                libraries.remove(name)
                path = target / "lib" / pathlib.PurePosixPath(name).name
            elif name.startswith(headers) and not member.is_dir():
                path = target / "include" / name[len(headers):]
            else:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with members.open(member) as source, open(path, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
if libraries:
    sys.exit("not in the wheels: " + ", ".join(sorted(libraries)))
PYTHON

    cc -shared -fPIC -x c /dev/null -o "$part/libtorch/lib/libtorch.so" -Wl,-soname,libtorch.so \
        -Wl,--no-as-needed -L"$part/libtorch/lib" -ltorch_cpu -lc10 \
        -Wl,-rpath,'$ORIGIN' -Wl,--allow-shlib-undefined
    chmod -R a+rX -- "$part/libtorch"
    echo "$version" >"$part/libtorch/build-version"

    rm -rf -- "$target"
    mv -T -- "$part/libtorch" "$target"
    say "made $target ($(du -sh -- "$target" | cut -f1))"
fi
link .libtorch "$target"
say "ready: libtorch $version for CPU"
