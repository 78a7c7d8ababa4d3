#!/usr/bin/env bash
# Trains the tiny video model and its two motion adapters, about two hours on two cores: train.sh FOLDER [MINUTES]
# MINUTES divide into four parts: VAE 1/10, UNet 6/10, each adapter 3/20. What lies in FOLDER/work is not trained again.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
folder=${1:?give a folder for the model}
minutes=${2:-110}
work=$folder/work
python=$here/../../.oracle/bin/python
photographs=$work/scikit-image/skimage/data
# Threads that spin while they wait take the cores from those that work.
export OMP_WAIT_POLICY=passive

# Two processes, see training.py.
learn() { "$python" -m torch.distributed.run --standalone --nproc-per-node 2 "$here/$1" "${@:2}"; }
part() { awk "BEGIN { print $minutes * $1 }"; }

mkdir -p "$work"
if [[ ! -d $photographs ]]; then
    # For its pictures only: the package itself is never imported.
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target "$work/scikit-image" \
        scikit-image==0.26.0
fi
[[ -e $work/vae.pt ]] || learn vae.py "$photographs" "$work/vae.pt" "$(part 0.1)"
[[ -e $work/unet.pt ]] || learn unet.py "$photographs" "$work/vae.pt" "$work/unet.pt" "$(part 0.6)"
"$python" "$here/export.py" "$work/vae.pt" "$work/unet.pt" "$folder"
for motion in pan-left rotate; do
    adapter=$folder/$motion.safetensors
    [[ -e $adapter ]] ||
        learn adapter.py "$photographs" "$work/vae.pt" "$work/unet.pt" "$motion" "$adapter" "$(part 0.15)"
done
"$python" "$here/evaluate.py" "$folder" "$photographs"
