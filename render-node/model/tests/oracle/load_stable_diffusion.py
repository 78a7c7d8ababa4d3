"""As load_model.py, for a folder of Stable Diffusion, and saves what was loaded as the reference does.

Usage: load_stable_diffusion.py MODEL_DIR SEED float32|float16|bfloat16 SAVE_DIR
"""

import json
import sys

import synthetic
import torch
from diffusers import StableDiffusionPipeline

model_dir, seed, dtype, save_dir = sys.argv[1], int(sys.argv[2]), getattr(torch, sys.argv[3]), sys.argv[4]
pipeline = StableDiffusionPipeline.from_pretrained(
    model_dir, torch_dtype=dtype, safety_checker=None, requires_safety_checker=False
)

# transformers takes the prefix of published files off.
PREFIXES = {"unet": "unet.", "vae": "vae.", "text_encoder": "text_encoder.text_model."}
compared = {}
for component, prefix in PREFIXES.items():
    parameters = dict(getattr(pipeline, component).named_parameters())
    for name, parameter in parameters.items():
        expected = torch.from_numpy(synthetic.tensor(prefix + name, tuple(parameter.shape), seed)).to(dtype)
        assert torch.equal(parameter, expected), f"{component}.{name} differs"
    compared[component] = len(parameters)
pipeline.save_pretrained(save_dir)
print(json.dumps(compared))
