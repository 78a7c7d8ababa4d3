"""Measures a trained folder on pictures it was not trained on: `evaluate.py FOLDER PHOTOGRAPHS`.

Prints Markdown tables for the model card and writes `FOLDER/work/clips.png` (for each picture a row of true frames above
one of the model's, to be looked at beside the figures).
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.utils import logging
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

from adapter_config import RANK, TARGETS
from motion import DEFAULT_BUCKET, FRAMES, PAN_PER_FRAME, ROTATION_PER_FRAME_DEG, ZOOM_PER_FRAME, clips, warp
from pictures import SIDE, validation
from training import psnr

STEPS = 6
BUCKETS = (40, 127, 220)
# What is compared: the middle, which every motion keeps in view.
MARGIN = SIDE // 8


def render(pipeline, picture: torch.Tensor, bucket: int) -> torch.Tensor:
    """(FRAMES, 3, SIDE, SIDE), -1..=1, without guidance."""
    image = Image.fromarray(((picture / 2 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy())
    shown = pipeline(
        image,
        height=SIDE,
        width=SIDE,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        min_guidance_scale=1.0,
        max_guidance_scale=1.0,
        motion_bucket_id=bucket,
        decode_chunk_size=FRAMES,
        generator=torch.manual_seed(0),
        output_type="pt",
    ).frames[0]
    return shown * 2 - 1


def best(values: torch.Tensor, sources: torch.Tensor, first: torch.Tensor, last: torch.Tensor) -> float:
    """The value whose motion of `first` comes nearest to `last`; `sources` (V, 2, 3) are its matrices."""
    moved = warp(first.expand(len(values), -1, -1, -1), sources)
    inside = slice(MARGIN, -MARGIN)
    error = (moved - last)[..., inside, inside].square().flatten(1).mean(1)
    return float(values[error.argmin()])


def estimate(motion: str, clip: torch.Tensor) -> float:
    """From the last frame beside the first: growth, pixels to the left, or degrees clockwise."""
    if motion == "zoom":
        values = torch.arange(0.9, 1.7, 0.005)
        rows = (1 / values, values * 0, values * 0, values * 0, 1 / values, values * 0)
    elif motion == "pan-left":
        values = torch.arange(-20, 20, 0.25)
        rows = (values * 0 + 1, values * 0, 2 * values / SIDE, values * 0, values * 0 + 1, values * 0)
    else:
        values = torch.arange(-25, 25, 0.25)
        cosine, sine = (values * math.pi / 180).cos(), (values * math.pi / 180).sin()
        rows = (cosine, sine, values * 0, -sine, cosine, values * 0)
    return best(values, torch.stack(rows, -1).view(-1, 2, 3), clip[:1], clip[-1:])


def asked(motion: str, bucket: int) -> float:
    last = FRAMES - 1
    if motion == "zoom":
        return 1 + ZOOM_PER_FRAME * last * bucket / DEFAULT_BUCKET
    return PAN_PER_FRAME * SIDE * last if motion == "pan-left" else ROTATION_PER_FRAME_DEG * last


def measure(pipeline, motion: str, bucket: int, pictures: torch.Tensor) -> tuple[str, torch.Tensor]:
    wanted = clips(motion, pictures, torch.full((len(pictures),), float(bucket)))
    shown = torch.stack([render(pipeline, picture, bucket) for picture in pictures])
    still = pictures[:, None].expand(-1, FRAMES, -1, -1, -1)
    coded = [pipeline.vae.decode(pipeline.vae.encode(clip).latent_dist.mean, num_frames=FRAMES).sample for clip in wanted]
    held = torch.stack(
        [
            pipeline.vae.decode(pipeline.vae.encode(picture[None]).latent_dist.mean.expand(FRAMES, -1, -1, -1), FRAMES).sample
            for picture in pictures
        ]
    )
    found = np.array([estimate(motion, clip) for clip in shown])
    figures = (
        f"{asked(motion, bucket):.2f} | {np.median(found):.2f} ({found.min():.2f} to {found.max():.2f}) | {psnr(shown, wanted):.2f} | "
        f"{psnr(held, wanted):.2f} | {psnr(still, wanted):.2f} | {psnr(torch.stack(coded), wanted):.2f}"
    )
    return f"| {motion} | {bucket} | {figures} |", torch.stack([wanted, shown], 1)


def with_adapter(pipeline, file: Path) -> None:
    pipeline.unet = inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, **TARGETS), pipeline.unet)
    tensors = {name: tensor.float() for name, tensor in load_file(file).items()}
    missing = set_peft_model_state_dict(pipeline.unet, tensors)
    if missing.unexpected_keys:
        raise RuntimeError(f"{file}: {missing.unexpected_keys}")


@torch.no_grad()
def main() -> None:
    folder, photographs = Path(sys.argv[1]), Path(sys.argv[2])
    logging.disable_progress_bar()
    torch.set_num_threads(2)
    pictures = validation(photographs)

    def load():
        pipeline = StableVideoDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    print("| motion | bucket | asked | measured, median (all) | PSNR, model | held still, through the VAE | held still | VAE alone |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    pipeline = load()
    for bucket in BUCKETS:
        line, sheet = measure(pipeline, "zoom", bucket, pictures)
        print(line, flush=True)
        rows.append(sheet[[0, 4, 9]])
    for motion in ("pan-left", "rotate"):
        pipeline = load()
        with_adapter(pipeline, folder / f"{motion}.safetensors")
        line, sheet = measure(pipeline, motion, DEFAULT_BUCKET, pictures)
        print(line, flush=True)
        rows.append(sheet[[0, 4, 9]])
    sheet = torch.cat(rows).flatten(0, 1).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    (folder / "work").mkdir(exist_ok=True)
    Image.fromarray(((sheet.clamp(-1, 1) / 2 + 0.5) * 255).round().byte().numpy()).save(folder / "work" / "clips.png")


main()
