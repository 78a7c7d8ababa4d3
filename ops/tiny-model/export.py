"""Writes the model folder from what was trained: `export.py VAE.pt UNET.pt FOLDER`."""

import sys
from pathlib import Path

import torch

from model import new_unet, new_vae, save


def main() -> None:
    vae, unet = new_vae(), new_unet()
    vae.load_state_dict(torch.load(sys.argv[1]))
    unet.load_state_dict(torch.load(sys.argv[2]))
    save(Path(sys.argv[3]), vae, unet)


main()
