"""What one clip costs with the reference pipeline: the rival of `flowai-svd animate` in `flowai-benches engine`.

Takes that program's options and spec, does the same work, writes the same frames, and ends with the same JSON line on stderr.
`--tuned` lends it two of our settings: weights of 2-D convolutions with the channels innermost, and (from its caller, in the
environment) an allocator that keeps what is freed. `--compile` compiles the UNet, in a first render that is not measured. On a
GPU (`device` of the spec) it takes the folder that `flowai-svd bench` leaves, and needs a torch that was built for it.
"""

import argparse
import json
import sys
import time


def since_process_start() -> float:
    """Seconds, exact to the clock tick of 10 ms."""
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        ticks = float(stat.read().rsplit(")", 1)[1].split()[19])
        return float(uptime.read().split()[0]) - ticks / 100.0


def peak_memory_bytes() -> int:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


parser = argparse.ArgumentParser()
for option in ("model", "image", "spec", "out"):
    parser.add_argument(f"--{option}", required=True)
parser.add_argument("--tuned", action="store_true")
parser.add_argument("--compile", action="store_true")
arguments = parser.parse_args()
with open(arguments.spec) as file:
    spec = json.load(file)

import torch  # noqa: E402
from diffusers import StableVideoDiffusionPipeline  # noqa: E402
from diffusers.utils import logging  # noqa: E402
from PIL import Image, ImageOps  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

logging.disable_progress_bar()
torch.set_num_threads(spec["threads"])
torch.set_num_interop_threads(1)
dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec["dtype"]]

started = time.monotonic()
pipeline = StableVideoDiffusionPipeline.from_pretrained(arguments.model, torch_dtype=dtype)
pipeline.set_progress_bar_config(disable=True)
device = torch.device(spec.get("device", "cpu"))
pipeline.to(device)
if arguments.compile:
    pipeline.unet = torch.compile(pipeline.unet)
if arguments.tuned:
    for component in (pipeline.unet, pipeline.vae):
        for parameter in component.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def now() -> float:
    """Seconds, when the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


measured = {"load_s": now() - started, "steps_s": []}
step_started = 0.0


def step_begins(*_) -> None:
    global step_started
    step_started = now()
    if "start_to_first_step_s" not in measured:
        measured["start_to_first_step_s"] = since_process_start()


def step_ends(_, __, ___, tensors: dict) -> dict:
    measured["steps_s"].append(now() - step_started)
    return {}


@torch.inference_mode()
def render() -> torch.Tensor:
    return pipeline(
        ImageOps.exif_transpose(Image.open(arguments.image)).convert("RGB"),
        height=spec["height"],
        width=spec["width"],
        num_frames=spec["frames"],
        num_inference_steps=spec["steps"],
        min_guidance_scale=spec["min_guidance_scale"],
        max_guidance_scale=spec["max_guidance_scale"],
        fps=spec["fps"],
        motion_bucket_id=spec["motion_bucket_id"],
        noise_aug_strength=spec["noise_aug_strength"],
        decode_chunk_size=spec["decode_chunk_size"],
        generator=torch.manual_seed(spec["seed"]),
        output_type="pt",
        callback_on_step_end=step_ends,
    ).frames[0]


pipeline.unet.register_forward_pre_hook(step_begins)
if arguments.compile:
    render()
    measured["steps_s"] = []
loaded, loaded_cpu = now(), time.process_time()
frames = render()
measured["render_s"] = now() - loaded
measured["render_cpu_s"] = time.process_time() - loaded_cpu

save_file({"frames": frames.float().cpu().contiguous()}, arguments.out)
measured["total_s"] = since_process_start()
measured["peak_memory_bytes"] = peak_memory_bytes()
if device.type == "cuda":
    measured["peak_device_memory_bytes"] = torch.cuda.max_memory_allocated(device)
print(json.dumps(measured), file=sys.stderr)
