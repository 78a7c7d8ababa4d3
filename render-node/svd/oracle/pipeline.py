"""Whole clips of the reference pipeline, with what comes in between.

CASE: {"jobs": [{"name", "model", "dtype", "noise_dtype", "image" or "pixels", "adapters"?, "spec": {..}}, ..]}. `spec` has the
fields of `flowai-svd animate`; `image` is a file, `pixels` the name of an input (1, 3, H, W) in 0..1; `adapters` as in
`adapters.py`. The first latents are drawn in `noise_dtype` and then cast, so that precisions can be compared on one noise.
OUTPUTS, f32: for each `name`: `NAME.image_embeds` (1, D), `NAME.image_latents` (1, L, h, w), `NAME.latents_K` (1, F, L, h, w)
after each step, `NAME.frames` (F, 3, H, W) in 0..1 before any rounding.
"""

import torch
from adapters import inject_all
from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as svd
from PIL import Image, ImageOps
from reference import DTYPES, load_pipeline, main

resize_to = svd._resize_with_antialiasing


def render(job: dict, inputs: dict) -> dict:
    pipeline = load_pipeline(job["model"], job["dtype"])
    inject_all(pipeline.unet, job.get("adapters", []))
    outputs = {}

    # The pipeline writes 224 where this encoder may read another size.
    side = pipeline.image_encoder.config.image_size
    svd._resize_with_antialiasing = lambda pixels, _: resize_to(pixels, (side, side))

    def keep_embeds(_, __, result):
        outputs["image_embeds"] = result.image_embeds

    pipeline.image_encoder.register_forward_hook(keep_embeds)
    encode = pipeline._encode_vae_image

    def keep_image_latents(*arguments, **settings):
        latents = encode(*arguments, **settings)
        outputs["image_latents"] = latents[-1:]
        return latents

    pipeline._encode_vae_image = keep_image_latents
    prepare = pipeline.prepare_latents

    def draw_in_noise_dtype(batch, frames, channels, height, width, dtype, *rest):
        noise_dtype = DTYPES[job["noise_dtype"]]
        drawn = torch.randn(
            (batch, frames, channels // 2, height // pipeline.vae_scale_factor, width // pipeline.vae_scale_factor),
            dtype=noise_dtype,
            generator=rest[1],
        )
        return prepare(batch, frames, channels, height, width, dtype, rest[0], rest[1], drawn.to(dtype))

    if job["noise_dtype"] != job["dtype"]:
        pipeline.prepare_latents = draw_in_noise_dtype

    def keep_latents(_, step, __, tensors):
        outputs[f"latents_{step}"] = tensors["latents"]
        return {}

    spec = job["spec"]
    if "image" in job:
        image = ImageOps.exif_transpose(Image.open(job["image"])).convert("RGB")
    else:
        image = inputs[job["pixels"]]
    frames = pipeline(
        image,
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
        callback_on_step_end=keep_latents,
    ).frames[0]
    return {"frames": frames} | outputs


def answer(case: dict, inputs: dict) -> dict:
    return {
        f"{job['name']}.{name}": tensor.float()
        for job in case["jobs"]
        for name, tensor in render(job, inputs).items()
    }


main(answer)
