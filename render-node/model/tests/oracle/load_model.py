"""Loads a model folder with the reference pipeline and compares every parameter with its own synthetic values.

Usage: load_model.py MODEL_DIR SEED float32|float16|bfloat16
Prints the number of parameters compared of each component; fails at the first that is not equal bit for bit.
"""

import json
import sys

import synthetic
import torch
from diffusers import StableVideoDiffusionPipeline

model_dir, seed, dtype = sys.argv[1], int(sys.argv[2]), getattr(torch, sys.argv[3])
pipeline = StableVideoDiffusionPipeline.from_pretrained(model_dir, torch_dtype=dtype)

compared = {}
for component in ("unet", "vae", "image_encoder"):
    parameters = dict(getattr(pipeline, component).named_parameters())
    for name, parameter in parameters.items():
        expected = synthetic.tensor(f"{component}.{name}", tuple(parameter.shape), seed)
        expected = torch.from_numpy(expected).to(dtype)
        assert parameter.dtype == dtype, f"{component}.{name} is {parameter.dtype}"
        assert torch.equal(parameter, expected), f"{component}.{name} differs"
    compared[component] = len(parameters)

# A module filled in place must hold what the files hold.
synthetic.fill(pipeline.unet, "unet.", seed)
first = next(iter(pipeline.unet.parameters()))
assert torch.equal(first, torch.from_numpy(synthetic.tensor("unet.conv_in.weight", tuple(first.shape), seed)).to(dtype))

print(json.dumps(compared))
