"""The model's parts and sizes, and how its folder is written: diffusers' layout, weights in fp16."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from motion import FRAMES
from pictures import SIDE

LATENT_CHANNELS = 4
# Two halvings.
LATENT_SIDE = SIDE // 4
EMBEDDING = 32
SEED = 7


def new_vae() -> AutoencoderKLTemporalDecoder:
    """Its temporal layers change nothing until they are trained: a still picture's decoder is where they start."""
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=SIDE,
        # Latents have a deviation of 1 by themselves, see `vae.normalise`: noise, picture and result come in one scale.
        scaling_factor=1.0,
        force_upcast=False,
    )
    for name, module in vae.decoder.named_modules():
        if name.endswith("temporal_res_block"):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
    last = vae.decoder.time_conv_out
    torch.nn.init.zeros_(last.bias)
    torch.nn.init.zeros_(last.weight)
    last.weight.data[:, :, 1, 0, 0] = torch.eye(3)
    return vae
