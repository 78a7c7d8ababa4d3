"""Trains a motion LoRA on the frozen UNet: `adapter.py PHOTOGRAPHS VAE.pt UNET.pt MOTION OUT.safetensors MINUTES`.

PEFT's keys, rank = alpha, fp16. With it the motion replaces the zoom, whatever the motion bucket.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

from adapter_config import RANK, TARGETS
from denoising import Latents, train
from model import SEED, new_unet, new_vae
from pictures import Pictures
from training import is_first, log, own_seed, share, start

POOL = 500
LEARNING_RATE = 2e-3


def main() -> None:
    photographs, vae_file, unet_file, motion, out = Path(sys.argv[1]), *sys.argv[2:6]
    minutes = float(sys.argv[6])
    start(SEED + 2)
    vae = new_vae()
    vae.load_state_dict(torch.load(vae_file))
    unet = new_unet()
    unet.load_state_dict(torch.load(unet_file))
    unet.requires_grad_(False)
    unet = inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, **TARGETS), unet)
    latents = Latents(vae, Pictures(photographs, own_seed(SEED + 2)).draw(share(POOL)))
    average = train(unet, latents, motion, LEARNING_RATE, minutes)
    unet.load_state_dict(average, strict=False)
    tensors = {name: tensor.half().contiguous() for name, tensor in get_peft_model_state_dict(unet).items()}
    if is_first():
        save_file(tensors, out)
    log(f"done: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()) / 1e6:.2f} M parameters")


main()
