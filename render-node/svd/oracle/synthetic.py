"""Weights made of names: the twin of `flowai_model::synthetic`, bit for bit.

Every parameter is a pure function of its name, its shape and a seed, so a parity test needs no weight files.
The rule is documented in render-node/model/src/synthetic/generator.rs; a change there is a change here.
"""

import math

import numpy as np
import torch

GAMMA = np.uint64(0x9E3779B97F4A7C15)
LANES_MEAN = 131070.0
LANES_STD = 37837.2
MASK64 = (1 << 64) - 1


def fnv1a64(data: bytes) -> int:
    state = 0xCBF29CE484222325
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & MASK64
    return state


def normal(name: str, count: int, seed: int) -> np.ndarray:
    """The first `count` draws of the name's stream, f64, about N(0, 1)."""
    stream = np.uint64(fnv1a64(name.encode()) ^ (seed & MASK64))
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64) * GAMMA + stream
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    lane = np.uint64(0xFFFF)
    total = (z & lane) + (z >> np.uint64(16) & lane) + (z >> np.uint64(32) & lane) + (z >> np.uint64(48))
    return (total.astype(np.float64) - LANES_MEAN) / LANES_STD


def tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The values of the parameter `name`, f32."""
    draws = normal(name, math.prod(shape), seed)
    if name.endswith(".bias"):
        values = 0.1 * draws
    elif name.endswith(".mix_factor"):
        values = draws
    elif len(shape) == 1 and name.endswith(".weight"):
        values = 1.0 + 0.2 * draws
    else:
        fan_in = shape[0] if len(shape) == 1 else math.prod(shape[1:])
        values = draws / math.sqrt(fan_in)
    return values.astype(np.float32).reshape(shape)


@torch.no_grad()
def fill(module: torch.nn.Module, prefix: str, seed: int) -> None:
    """Sets every parameter of `module`; `prefix` is the component with its dot, as in "unet."."""
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.from_numpy(tensor(prefix + name, tuple(parameter.shape), seed)))
