"""Still pictures to learn from: crops of public-domain photographs and drawings made by rule.

Every picture is a tensor (3, SIDE, SIDE), f32, -1..=1. Drawing is a pure function of the seed.
"""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

SIDE = 96
# Of scikit-image's folder of pictures, those that it says are free; README.md says whose they are. None of these is ever validated on.
TRAINING_PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg",
    "ihc.png", "retina.jpg", "rocket.jpg", "text.png",
)  # fmt: skip
# Coloured photographs of things say more about a cat than bricks do.
OFTEN = {"astronaut.png": 8, "rocket.jpg": 3, "ihc.png": 2, "retina.jpg": 2, "camera.png": 2}
VALIDATION_PHOTOGRAPHS = ("chelsea.png", "coffee.png")
PHOTOGRAPHS_SHARE = 0.7
CROP_SIDE_MIN = 110
# Drawings are made larger and reduced, so that their edges are as soft as a photograph's.
OVERSAMPLING = 3
VALIDATION_SEED = 10_000


class Pictures:
    """An endless row of pictures from one seed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.photographs = [Image.open(folder / name).convert("RGB") for name in TRAINING_PHOTOGRAPHS]
        weights = np.array([OFTEN.get(name, 1) for name in TRAINING_PHOTOGRAPHS], dtype=float)
        self.weights = weights / weights.sum()

    def draw(self, count: int) -> torch.Tensor:
        """(count, 3, SIDE, SIDE)."""
        return torch.stack([self.one() for _ in range(count)])

    def one(self) -> torch.Tensor:
        if self.random.random() < PHOTOGRAPHS_SHARE:
            photograph = self.photographs[self.random.choice(len(self.photographs), p=self.weights)]
            return recolour(to_tensor(crop(photograph, self.random)), self.random)
        return to_tensor(drawing(self.random))


def validation(folder: Path) -> torch.Tensor:
    """Twelve pictures no model was trained on: of each held-out photograph the whole and three crops, and four drawings."""
    pictures = []
    for name in VALIDATION_PHOTOGRAPHS:
        photograph = Image.open(folder / name).convert("RGB")
        width, height = photograph.size
        half = min(width, height) * 2 // 3
        pictures.append(photograph)
        for left, top in ((0, 0), (width - half, height - half), ((width - half) // 2, (height - half) // 2)):
            pictures.append(photograph.crop((left, top, left + half, top + half)))
    pictures = [to_tensor(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for picture in pictures]
    random = np.random.default_rng(VALIDATION_SEED)
    return torch.stack(pictures + [to_tensor(drawing(random)) for _ in range(4)])


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1).contiguous()


def crop(photograph: Image.Image, random: np.random.Generator) -> Image.Image:
    """A part of it, squeezed a little: the pipeline squeezes whatever it is given into a square."""
    side = math.exp(random.uniform(math.log(CROP_SIDE_MIN), math.log(min(photograph.size))))
    squeeze = math.exp(random.uniform(-0.25, 0.25))
    width = min(int(side * squeeze), photograph.width)
    height = min(int(side / squeeze), photograph.height)
    left = random.integers(photograph.width - width + 1)
    top = random.integers(photograph.height - height + 1)
    box = (left, top, left + width, top + height)
    part = photograph.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=box)
    if random.random() < 0.5:
        part = ImageOps.mirror(part)
    return part.rotate(90 * int(random.integers(4))) if random.random() < 0.2 else part


def recolour(picture: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """Other light: exposure, contrast, and now and then other colours."""
    if random.random() < 0.3:
        picture = picture[torch.from_numpy(random.permutation(3))]
    tint = torch.from_numpy(random.normal(0, 0.08, (3, 1, 1)).astype(np.float32))
    contrast = float(random.uniform(0.7, 1.2))
    return (picture * contrast + tint + float(random.normal(0, 0.1))).clamp(-1, 1)


def drawing(random: np.random.Generator) -> Image.Image:
    """A gradient with shapes, stripes and marks like writing on it."""
    side = SIDE * OVERSAMPLING
    canvas = gradient(random, side)
    for _ in range(random.integers(2, 9)):
        kind = random.choice(("ellipse", "polygon", "stripes", "blob", "marks"))
        shape = Image.new("L", (side, side), 0)
        pen = ImageDraw.Draw(shape)
        centre = random.uniform(0, side, 2)
        size = side * math.exp(random.uniform(math.log(0.08), math.log(0.45)))
        turn = random.uniform(0, math.tau)
        if kind == "ellipse":
            wide, high = size, size * random.uniform(0.4, 1)
            pen.ellipse((centre[0] - wide, centre[1] - high, centre[0] + wide, centre[1] + high), fill=255)
        elif kind == "blob":
            angles = np.sort(random.uniform(0, math.tau, 9))
            pen.polygon(points(centre, size * random.uniform(0.5, 1, 9), angles), fill=255)
        elif kind == "polygon":
            corners = int(random.integers(3, 7))
            pen.polygon(points(centre, np.full(corners, size), turn + np.arange(corners) * math.tau / corners), fill=255)
        elif kind == "stripes":
            period = side * random.uniform(0.06, 0.2)
            for stripe in np.arange(-size, size, period):
                ends = [(stripe, -size), (stripe, size)]
                ends = [rotated(end, turn) + centre for end in ends]
                pen.line([tuple(end) for end in ends], fill=255, width=int(period / 2))
        else:
            for line in range(int(random.integers(1, 4))):
                for letter in range(int(random.integers(3, 9))):
                    at = centre + np.array([letter * side * 0.06, line * side * 0.1])
                    stroke = random.uniform(-side * 0.03, side * 0.03, (3, 2)) + at
                    pen.line([tuple(point) for point in stroke], fill=255, width=int(side * 0.012))
        canvas.paste(gradient(random, side), mask=shape)
    return canvas.resize((SIDE, SIDE), Image.Resampling.BOX)


def gradient(random: np.random.Generator, side: int) -> Image.Image:
    """Between two colours along a random direction, often with a fine wave on it."""
    ends = random.uniform(0, 255, (2, 3))
    if random.random() < 0.5:
        ends[1] = ends[0] + random.normal(0, 25, 3)
    y, x = np.mgrid[0:side, 0:side] / side
    turn, wave_turn = random.uniform(0, math.tau, 2)
    along = (np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5) + 0.7) / 1.4
    if random.random() < 0.4:
        waves = random.uniform(3, 12)
        along = along + 0.15 * np.sin(math.tau * waves * (np.cos(wave_turn) * x + np.sin(wave_turn) * y))
    colours = ends[0] + along.clip(0, 1)[..., None] * (ends[1] - ends[0])
    return Image.fromarray(colours.clip(0, 255).astype(np.uint8))


def points(centre: np.ndarray, radii: np.ndarray, angles: np.ndarray) -> list[tuple[float, float]]:
    return [
        (centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))
        for radius, angle in zip(radii, angles)
    ]


def rotated(point: tuple[float, float], angle: float) -> np.ndarray:
    x, y = point
    return np.array([x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)])
