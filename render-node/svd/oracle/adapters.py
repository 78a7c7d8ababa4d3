"""What the UNet makes of one input with adapters that PEFT injected.

CASE: {"model": DIR, "timestep", "sets": {NAME: [[FILE, WEIGHT], ..]}}. Every file is in PEFT's format with its settings in the
metadata. INPUTS: sample, image_embeds, added_time_ids. OUTPUTS: the prediction with every set of adapters under its name.
"""

import json

import torch
from diffusers import UNetSpatioTemporalConditionModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from reference import main
from safetensors import safe_open

SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules")


def inject(unet, name, path):
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
        state = {key.removeprefix("unet."): file.get_tensor(key) for key in file.keys()}
    config = LoraConfig(**{key: settings[key] for key in SETTINGS})
    inject_adapter_in_model(config, unet, adapter_name=name)
    result = set_peft_model_state_dict(unet, state, adapter_name=name)
    assert not result.unexpected_keys, result.unexpected_keys


def activate(unet, weights):
    """Lets every layer sum all its adapters. PEFT's own `set_scale` would forget that an adapter is rank-stabilised."""
    for layer in unet.modules():
        if isinstance(layer, LoraLayer):
            names = [name for name in weights if name in layer.scaling]
            layer.set_adapter(names)
            for name in names:
                layer.scaling[name] *= weights[name]


def inject_all(unet, adapters):
    """`adapters`: [[FILE, WEIGHT], ..]."""
    for i, (path, _) in enumerate(adapters):
        inject(unet, f"adapter{i}", path)
    activate(unet, {f"adapter{i}": weight for i, (_, weight) in enumerate(adapters)})


def predict(case, inputs, adapters):
    unet = UNetSpatioTemporalConditionModel.from_pretrained(case["model"], subfolder="unet")
    inject_all(unet, adapters)
    # Injected layers ask for gradients, however the program began.
    with torch.no_grad():
        return unet(
            inputs["sample"],
            torch.tensor(case["timestep"]),
            encoder_hidden_states=inputs["image_embeds"].unsqueeze(1),
            added_time_ids=inputs["added_time_ids"],
            return_dict=False,
        )[0]


if __name__ == "__main__":
    main(lambda case, inputs: {name: predict(case, inputs, adapters) for name, adapters in case["sets"].items()})
