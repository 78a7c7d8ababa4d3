"""Trains a motion LoRA on the frozen UNet: `adapter.py PHOTOGRAPHS VAE.pt UNET.pt MOTION OUT.safetensors MINUTES`.

PEFT's keys, rank = alpha, fp16. With it the motion replaces the zoom, whatever the motion bucket.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

from denoising import Latents, train
from model import SEED, new_unet, new_vae
from pictures import Pictures
from training import log, start

POOL = 1000
RANK = 8
LEARNING_RATE = 4e-3
# The ends of module names: attention, feed-forward, projections and the resnets' convolutions.
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut"]


def main() -> None:
    photographs, vae_file, unet_file, motion, out = Path(sys.argv[1]), *sys.argv[2:6]
    minutes = float(sys.argv[6])
    start(SEED + 2)
    vae = new_vae()
    vae.load_state_dict(torch.load(vae_file))
    latents = Latents(vae, Pictures(photographs, SEED + 2).draw(POOL))
    unet = new_unet()
    unet.load_state_dict(torch.load(unet_file))
    unet.requires_grad_(False)
    # One key: queries and keys of cross-attention change nothing.
    no_effect = r".*attn2\.to_[qk]"
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, exclude_modules=no_effect, init_lora_weights=True)
    unet = inject_adapter_in_model(config, unet)
    average = train(unet, latents, motion, LEARNING_RATE, minutes)
    unet.load_state_dict(average, strict=False)
    tensors = {name: tensor.half().contiguous() for name, tensor in get_peft_model_state_dict(unet).items()}
    save_file(tensors, out)
    log(f"done: {len(tensors)} tensors, {sum(tensor.numel() for tensor in tensors.values()) / 1e6:.2f} M parameters")


main()
