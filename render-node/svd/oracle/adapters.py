"""What the UNet makes of one input with adapters that PEFT injected.

CASE: {"model": DIR, "timestep", "sets": {NAME: [[FILE, WEIGHT], ..]}}. Every file is in PEFT's format with its settings in the
metadata. INPUTS: sample, image_embeds, added_time_ids. OUTPUTS: the prediction with every set of adapters under its name.

A weight multiplies what a plain adapter adds. Of a DoRA adapter, which is not linear, it lets through that share of the change:
W0 + weight * (W' - W0), where W' is what PEFT merges. At weight 1 PEFT's own layers compute.
"""

import json

import torch
from diffusers import UNetSpatioTemporalConditionModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from reference import main
from safetensors import safe_open

SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules")


def inject(unet, name, path):
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
        state = {key.removeprefix("unet."): file.get_tensor(key) for key in file.keys()}
    config = LoraConfig(**{key: settings[key] for key in SETTINGS if key in settings})
    inject_adapter_in_model(config, unet, adapter_name=name)
    result = set_peft_model_state_dict(unet, state, adapter_name=name)
    assert not result.unexpected_keys, result.unexpected_keys


def activate(unet, weights):
    """Lets every layer sum all its adapters. PEFT's own `set_scale` would forget that an adapter is rank-stabilised."""
    for layer in unet.modules():
        if isinstance(layer, LoraLayer):
            names = [name for name in weights if name in layer.scaling]
            shares = [name for name in names if layer.use_dora[name] and weights[name] != 1]
            names = [name for name in names if name not in shares]
            for name in shares:
                let_through(layer, name, weights[name])
            layer.set_adapter(names)
            for name in names:
                layer.scaling[name] *= weights[name]


def let_through(layer, name, weight):
    """Moves the base weight by that share of what merging the adapter would move it. No other adapter may be a DoRA."""
    base = layer.get_base_layer().weight
    pristine = base.data.clone()
    layer.merge(adapter_names=[name])
    base.data.copy_(pristine + weight * (base.data - pristine))
    layer.merged_adapters.clear()


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
