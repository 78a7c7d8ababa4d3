"""Whole keyframes of the reference pipeline, with what comes in between.

CASE: {"jobs": [{"name", "model", "dtype", "noise_dtype", "prompt", "negative_prompt", "spec": {..}, "injected"?, "loaded"?},
..]}. `spec` has the fields of `flowai-svd keyframe`. `injected` are adapters of the UNet as in `adapters.py`, `loaded` likewise
[[FILE, WEIGHT], ..] that the pipeline's own loader reads. The first latents are drawn in `noise_dtype` and then cast, so that
precisions can be compared on one noise.
OUTPUTS, f32: for each `name`: `NAME.text_embeds` and, with guidance, `NAME.negative_embeds` (1, L, D), `NAME.latents_K`
(1, C, h, w) after each step, `NAME.frame` (1, 3, H, W) in 0..1 before any rounding.
"""

import torch
from adapters import inject_all
from keyframe_reference import load_keyframe_pipeline, sampler
from reference import DTYPES, main


def load_all(pipeline, adapters: list) -> None:
    for i, (path, _) in enumerate(adapters):
        folder, file = path.rsplit("/", 1)
        pipeline.load_lora_weights(folder, weight_name=file, adapter_name=f"adapter{i}")
    if adapters:
        pipeline.set_adapters([f"adapter{i}" for i in range(len(adapters))], [weight for _, weight in adapters])


def render(job: dict) -> dict:
    pipeline = load_keyframe_pipeline(job["model"], job["dtype"])
    inject_all(pipeline.unet, job.get("injected", []))
    load_all(pipeline, job.get("loaded", []))
    spec = job["spec"]
    pipeline.scheduler = sampler(pipeline, spec)
    outputs = {}
    encode = pipeline.encode_prompt

    def keep_embeds(*arguments, **settings):
        text, negative = encode(*arguments, **settings)
        outputs["text_embeds"] = text
        if negative is not None:
            outputs["negative_embeds"] = negative
        return text, negative

    pipeline.encode_prompt = keep_embeds

    def keep_latents(_, step, __, tensors):
        outputs[f"latents_{step}"] = tensors["latents"]
        return {}

    height, width = spec["height"], spec["width"]
    generator = torch.manual_seed(spec["seed"])
    drawn = None
    if job["noise_dtype"] != job["dtype"]:
        factor = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config.in_channels, height // factor, width // factor)
        drawn = torch.randn(shape, dtype=DTYPES[job["noise_dtype"]], generator=generator).to(DTYPES[job["dtype"]])

    # Injected layers ask for gradients, however the program began.
    with torch.no_grad():
        frame = pipeline(
            job["prompt"],
            negative_prompt=job["negative_prompt"] or None,
            height=height,
            width=width,
            num_inference_steps=spec["steps"],
            guidance_scale=spec["guidance_scale"],
            generator=generator,
            latents=drawn,
            output_type="pt",
            callback_on_step_end=keep_latents,
        ).images
    return {"frame": frame} | outputs


def answer(case: dict, _: dict) -> dict:
    return {f"{job['name']}.{name}": tensor.float() for job in case["jobs"] for name, tensor in render(job).items()}


main(answer)
