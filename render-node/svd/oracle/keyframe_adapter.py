"""Writes a random adapter of UNet and text encoder as diffusers' pipeline saves one.

CASE: {"model": DIR, "file": FILE}. Ranks and alphas differ between the components. OUTPUTS: nothing of use.
"""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from keyframe_reference import load_keyframe_pipeline
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from reference import main

CONFIGS = {
    "unet": LoraConfig(r=4, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "conv1"], rank_pattern={"to_k": 3}),
    "text_encoder": LoraConfig(
        r=3, lora_alpha=7, target_modules=["q_proj", "v_proj", "fc1"], alpha_pattern={"fc1": 1}, use_rslora=True
    ),
}


def answer(case: dict, _: dict) -> dict:
    torch.manual_seed(0)
    pipeline = load_keyframe_pipeline(case["model"], "fp32")
    layers = {}
    for name, config in CONFIGS.items():
        component = getattr(pipeline, name)
        inject_adapter_in_model(config, component)
        # What `add_adapter` leaves behind, by which diffusers finds the settings; transformers' own asks for a newer PEFT.
        component.peft_config = {"default": config}
        for path, parameter in component.named_parameters():
            if "lora_" in path:
                fan_in = parameter[0].numel()
                torch.nn.init.normal_(parameter.data, std=fan_in**-0.5)
        layers[name] = get_peft_model_state_dict(component)
    file = Path(case["file"])
    StableDiffusionPipeline.save_lora_weights(
        file.parent,
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers["text_encoder"],
        weight_name=file.name,
        **_collate_lora_metadata({name: getattr(pipeline, name) for name in CONFIGS}),
    )
    return {"done": torch.ones(1)}


main(answer)
