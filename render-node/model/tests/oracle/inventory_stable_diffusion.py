"""As inventory.py, for folders of Stable Diffusion.

Usage: inventory_stable_diffusion.py MODEL_DIR...
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def inventory(root: Path) -> dict[str, dict[str, list[int]]]:
    unet, vae = UNet2DConditionModel, AutoencoderKL
    with torch.device("meta"):
        return {
            "unet": shapes(unet.from_config(unet.load_config(root / "unet"))),
            "vae": shapes(vae.from_config(vae.load_config(root / "vae"))),
            "text_encoder": shapes(CLIPTextModel(CLIPTextConfig.from_pretrained(root / "text_encoder"))),
        }


print(json.dumps([inventory(Path(root)) for root in sys.argv[1:]]))
