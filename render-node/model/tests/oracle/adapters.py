"""Writes adapters by the reference's own writers and prints what PEFT says of each.

Usage: adapters.py MODEL_DIR OUT_DIR
Prints {file: {module: [rank, scale]}}; every number is read from the layers that PEFT made.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file

model_dir, out = Path(sys.argv[1]), Path(sys.argv[2])
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "proj_in", "conv1", "conv_in", "time_emb_proj", "linear_1"]


def unet() -> UNetSpatioTemporalConditionModel:
    return UNetSpatioTemporalConditionModel.from_pretrained(model_dir / "unet")


def said(module: torch.nn.Module) -> dict[str, list[float]]:
    """Rank and scale of every LoRA layer, by the module's path."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}
    return {name: [layer.r["default"], layer.scaling["default"]] for name, layer in layers.items()}


def randomise(module: torch.nn.Module) -> None:
    """PEFT starts `lora_B` at zero; halves must differ from what any other file holds."""
    for name, parameter in module.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter.data)


def metadata(config: LoraConfig) -> dict[str, str]:
    """As diffusers' `save_lora_adapter` writes it."""
    settings = {key: list(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(settings, indent=2, sort_keys=True)}


def injected(config: LoraConfig) -> tuple[dict[str, torch.Tensor], dict[str, list[float]]]:
    module = inject_adapter_in_model(config, unet())
    randomise(module)
    state = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(module).items()}
    return state, said(module)


expected = {}

patterns = LoraConfig(
    r=4,
    lora_alpha=6,
    target_modules=TARGETS,
    rank_pattern={"to_q": 2, "mid_block.*conv1": 3},
    alpha_pattern={"attn1.to_q": 1, "down_blocks.0.*proj": 12},
)
state, expected["patterns.safetensors"] = injected(patterns)
save_file(state, out / "patterns.safetensors", metadata=metadata(patterns))

rslora = LoraConfig(r=9, lora_alpha=6, target_modules=TARGETS, use_rslora=True)
state, expected["rslora.safetensors"] = injected(rslora)
save_file(state, out / "rslora.safetensors", metadata=metadata(rslora))

# Without metadata the convention is alpha = rank, and the converter to kohya's names writes that alpha.
plain = LoraConfig(r=4, lora_alpha=4, target_modules=TARGETS)
state, said_of_plain = injected(plain)
prefixed = {f"unet.{name}": tensor for name, tensor in state.items()}
for name, tensors in [
    ("plain.safetensors", state),
    ("prefixed.safetensors", prefixed),
    ("kohya.safetensors", convert_state_dict_to_kohya(prefixed)),
    ("half.safetensors", {name: tensor.half() for name, tensor in state.items()}),
]:
    save_file(tensors, out / name)
    expected[name] = said_of_plain

folder = get_peft_model(unet(), LoraConfig(r=4, lora_alpha=10, target_modules=TARGETS, rank_pattern={"to_v": 5}))
randomise(folder)
folder.save_pretrained(out / "folder")
expected["folder/adapter_model.safetensors"] = {
    name.removeprefix("base_model.model."): values for name, values in said(folder).items()
}

print(json.dumps(expected))
