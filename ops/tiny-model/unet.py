"""Trains the UNet to zoom: `unet.py PHOTOGRAPHS VAE.pt OUT.pt MINUTES`."""

import sys
from pathlib import Path

import torch

from denoising import Latents, start_near, train
from model import SEED, new_unet, new_vae
from pictures import Pictures
from training import as_in_first, is_first, log, own_seed, share, start

POOL = 1000
LEARNING_RATE = 1e-3


def main() -> None:
    photographs, vae_file, out, minutes = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
    start(SEED + 1)
    vae = new_vae()
    vae.load_state_dict(torch.load(vae_file))
    unet = new_unet()
    latents = Latents(vae, Pictures(photographs, own_seed(SEED + 1)).draw(share(POOL)))
    log(f"{POOL} pictures encoded; {sum(parameter.numel() for parameter in unet.parameters()) / 1e6:.2f} M parameters")
    start_near(unet, latents, "zoom")
    as_in_first(unet)
    average = train(unet, latents, "zoom", LEARNING_RATE, minutes)
    unet.load_state_dict(average)
    if is_first():
        torch.save(unet.state_dict(), out)
    log("done")


main()
