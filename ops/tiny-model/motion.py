"""The motions that are taught: how frame `f` of a clip follows from its first.

A motion is a pure function of the first frame, so what the model should do is known exactly. What comes into view from
outside is the picture mirrored at its border.
"""

import math

import torch
import torch.nn.functional as F

FRAMES = 8
# Growth from one frame to the next at the default motion bucket, as a part of the first frame's size.
ZOOM_PER_FRAME = 0.03
DEFAULT_BUCKET = 127
BUCKET_MIN, BUCKET_MAX = 20, 255
# Of the clip's width, from one frame to the next: 1.75 pixels of 96.
PAN_PER_FRAME = 1.75 / 96
# Clockwise as one sees it.
ROTATION_PER_FRAME_DEG = 1.75

MOTIONS = ("zoom", "pan-left", "rotate")


def matrices(motion: str, buckets: torch.Tensor) -> torch.Tensor:
    """Where each frame's pixels come from: (N, FRAMES, 2, 3), in the coordinates of `grid_sample`, -1..=1.

    The motions of adapters do not follow the bucket (N): an adapter is weakened by its weight.
    """
    frame = torch.arange(FRAMES, dtype=torch.float32).expand(len(buckets), FRAMES)
    zero, one = torch.zeros_like(frame), torch.ones_like(frame)
    if motion == "zoom":
        scale = 1 / (1 + ZOOM_PER_FRAME * frame * buckets[:, None] / DEFAULT_BUCKET)
        rows = (scale, zero, zero, zero, scale, zero)
    elif motion == "pan-left":
        rows = (one, zero, 2 * PAN_PER_FRAME * frame, zero, one, zero)
    elif motion == "rotate":
        angle = frame * math.radians(ROTATION_PER_FRAME_DEG)
        rows = (angle.cos(), angle.sin(), zero, -angle.sin(), angle.cos(), zero)
    else:
        raise ValueError(f"motion must be one of {', '.join(MOTIONS)} (got {motion!r})")
    return torch.stack(rows, -1).view(len(buckets), FRAMES, 2, 3)


def warp(pictures: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
    """Pictures (N, C, H, W) by matrices (N, 2, 3), bicubic."""
    grid = F.affine_grid(sources, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def clips(motion: str, pictures: torch.Tensor, buckets: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, H, W) to clips (N, FRAMES, 3, H, W)."""
    frames = pictures[:, None].expand(-1, FRAMES, -1, -1, -1).flatten(0, 1)
    moved = warp(frames, matrices(motion, buckets).flatten(0, 1)).clamp(-1, 1)
    return moved.unflatten(0, (-1, FRAMES))
