"""What the oracle's programs share: one thread, fixed kernels, tensors in and out through safetensors."""

import json
import sys

import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
from transformers.utils import logging as transformers_logging

logging.disable_progress_bar()
transformers_logging.disable_progress_bar()
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
torch.set_grad_enabled(False)

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(answer) -> None:
    """Runs `PROGRAM CASE.json INPUTS.safetensors OUTPUTS.safetensors`: `answer(case, inputs)` returns the outputs."""
    case_file, inputs_file, outputs_file = sys.argv[1:]
    with open(case_file) as file:
        case = json.load(file)
    outputs = answer(case, load_file(inputs_file))
    save_file({name: tensor.contiguous() for name, tensor in outputs.items()}, outputs_file)


def load_pipeline(model_dir: str, dtype: str) -> StableVideoDiffusionPipeline:
    pipeline = StableVideoDiffusionPipeline.from_pretrained(model_dir, torch_dtype=DTYPES[dtype])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
