"""Prints a list of {component: {tensor name: shape}}, one of each model folder's configs, built without memory.

Usage: inventory.py MODEL_DIR...
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def inventory(root: Path) -> dict[str, dict[str, list[int]]]:
    unet, vae = UNetSpatioTemporalConditionModel, AutoencoderKLTemporalDecoder
    with torch.device("meta"):
        return {
            "unet": shapes(unet.from_config(unet.load_config(root / "unet"))),
            "vae": shapes(vae.from_config(vae.load_config(root / "vae"))),
            "image_encoder": shapes(
                CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(root / "image_encoder"))
            ),
        }


print(json.dumps([inventory(Path(root)) for root in sys.argv[1:]]))
