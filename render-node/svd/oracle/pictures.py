"""What diffusers and Pillow make of image files.

CASE: {"pictures": [{"name", "file", "width", "height", "clip_size"}, ..]}. No inputs.
OUTPUTS: for each `name`: `NAME.rgb` (H, W, 3) u8 as decoded and turned upright, `NAME.resized` (height, width, 3) u8 by
Lanczos, `NAME.conditioning` (1, 3, height, width) as the VAE reads it, `NAME.clip` (1, 3, clip_size, clip_size) as CLIP does.
"""

import numpy as np
import torch
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from diffusers.video_processor import VideoProcessor
from PIL import Image, ImageOps
from reference import main
from transformers import CLIPImageProcessor


def clip_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """The lines of `StableVideoDiffusionPipeline._encode_image` before the encoder, whose size is the literal 224."""
    pixels = VideoProcessor.numpy_to_pt(VideoProcessor.pil_to_numpy(image))
    pixels = _resize_with_antialiasing(pixels * 2.0 - 1.0, (size, size))
    return CLIPImageProcessor()(
        images=(pixels + 1.0) / 2.0,
        do_normalize=True,
        do_center_crop=False,
        do_resize=False,
        do_rescale=False,
        return_tensors="pt",
    ).pixel_values


def answer(case: dict, _: dict) -> dict:
    outputs = {}
    for picture in case["pictures"]:
        name, width, height = picture["name"], picture["width"], picture["height"]
        image = ImageOps.exif_transpose(Image.open(picture["file"])).convert("RGB")
        resized = image.resize((width, height), Image.Resampling.LANCZOS)
        outputs[f"{name}.rgb"] = torch.from_numpy(np.array(image))
        outputs[f"{name}.resized"] = torch.from_numpy(np.array(resized))
        outputs[f"{name}.conditioning"] = VideoProcessor().preprocess(image, height=height, width=width)
        outputs[f"{name}.clip"] = clip_pixels(image, picture["clip_size"])
    return outputs


main(answer)
