"""What loading, switching and taking out adapters costs with PEFT: the rival of `flowai-svd switch` in `flowai-benches engine`.

Takes that program's folder, does the same to the same layers and files, and ends with a JSON line on stderr of the same names.
Loading goes the way of diffusers' `load_lora_adapter` and `fuse_lora`, switching that of `unfuse_lora`, `set_adapters` and
`fuse_lora`, layer by layer as they do; a UNet around the layers would change nothing.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--dir", type=Path, required=True)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--threads", type=int, required=True)
arguments = parser.parse_args()

import torch  # noqa: E402
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

WEIGHT = 0.7
SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules")

# That there are several adapters, and that one is deleted, is what is measured.
warnings.simplefilter("ignore")
torch.set_num_threads(arguments.threads)
torch.set_num_interop_threads(1)


def layers_of(file: Path) -> torch.nn.Module:
    """Linear layers at their paths, which is all that PEFT looks at."""
    root = torch.nn.Module()
    for name, weight in load_file(file).items():
        *parents, leaf = name.removesuffix(".weight").split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        module.add_module(leaf, linear)
    return root


def lora_layers() -> list[LoraLayer]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def load(file: Path, name: str) -> None:
    with safe_open(file, "pt") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
        state = {key.removeprefix("unet."): opened.get_tensor(key) for key in opened.keys()}
    config = LoraConfig(**{key: settings[key] for key in SETTINGS})
    inject_adapter_in_model(config, model, adapter_name=name, low_cpu_mem_usage=True)
    set_peft_model_state_dict(model, state, adapter_name=name, low_cpu_mem_usage=True)


def fuse(name: str) -> None:
    for layer in lora_layers():
        layer.set_adapter([name])
        layer.set_scale(name, WEIGHT)
        layer.merge(adapter_names=[name])


def unfuse() -> None:
    for layer in lora_layers():
        layer.unmerge()


def timed(work, *values) -> float:
    started = time.monotonic()
    work(*values)
    return time.monotonic() - started


def load_and_fuse(name: str) -> None:
    load(files[name], name)
    fuse(name)


def switch(name: str) -> None:
    unfuse()
    fuse(name)


files = {"first": arguments.dir / "adapter-1.safetensors", "second": arguments.dir / "adapter-2.safetensors"}
model = layers_of(arguments.dir / "unet" / "diffusion_pytorch_model.safetensors")
figures = {"load_s": [], "switch_s": [], "restore_s": []}
with torch.inference_mode():
    load(files["second"], "second")
    for round in range(arguments.rounds + 1):
        load_s = timed(load_and_fuse, "first")
        switches_s = [timed(switch, "second"), timed(switch, "first")]
        restore_s = timed(unfuse)
        for layer in lora_layers():
            layer.delete_adapter("first")
        # The first round makes room.
        if round > 0:
            figures["load_s"].append(load_s)
            figures["switch_s"] += switches_s
            figures["restore_s"].append(restore_s)
figures["linears"] = len(lora_layers())
print(json.dumps(figures), file=sys.stderr)
