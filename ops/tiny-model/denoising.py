"""What the UNet learns: the whole clip's latents from noise and the first frame's latents.

A clip is a function of its first frame, so at high noise this is plain regression of moved latents. The VAE was taught
that moved latents are the moved picture's (see `vae.py`), so the latents to reach are the first frame's, moved.
"""

import math

import torch

from closed_form import Seen, solve
from model import EMBEDDING
from motion import BUCKET_MAX, BUCKET_MIN, FRAMES, matrices, warp
from training import Schedule, finish_step, log

# How much noise is seen: mostly what the first steps of a sampler see, evenly in its logarithm.
SIGMA_MIN, SIGMA_MIDDLE, SIGMA_MAX = 0.05, 5.0, 700.0
HIGH_SHARE = 0.7
NOISE_AUG_STRENGTH = 0.02
FPS_SEEN = 6.0
# Clips of each process in a step.
BATCH = 2
ENCODED_AT_ONCE = 25
SOLVED_FROM = 12
AVERAGE_DECAY = 0.995


class Latents:
    """First frames of `pictures` (N, 3, H, W): clean, and as the pipeline encodes them, with a little noise."""

    @torch.no_grad()
    def __init__(self, vae, pictures: torch.Tensor) -> None:
        def encode(batch):
            return vae.encode(batch).latent_dist.mean

        batches = [batch.float() for batch in pictures.split(ENCODED_AT_ONCE)]
        self.clean = torch.cat([encode(batch) for batch in batches])
        self.seen = torch.cat([encode(batch + NOISE_AUG_STRENGTH * torch.randn_like(batch)) for batch in batches])


def ids(buckets: torch.Tensor) -> torch.Tensor:
    """What the UNet is told beside the picture, (N, 3)."""
    return torch.stack([torch.full_like(buckets, FPS_SEEN), buckets, torch.full_like(buckets, NOISE_AUG_STRENGTH)], 1)


def predict(unet, noisy, sigmas, seen, buckets) -> torch.Tensor:
    """The clean latents (N, FRAMES, C, H, W) behind noisy ones; `sigmas`, `buckets` (N), `seen` (N, C, H, W)."""
    sigma = sigmas.view(-1, 1, 1, 1, 1)
    picture = seen[:, None].expand(-1, FRAMES, -1, -1, -1)
    stacked = torch.cat([noisy / (sigma**2 + 1).sqrt(), picture], 2)
    nothing = torch.zeros(len(noisy), 1, EMBEDDING)
    answer = unet(stacked, 0.25 * sigmas.log(), nothing, ids(buckets)).sample
    return noisy / (sigma**2 + 1) - answer * sigma / (sigma**2 + 1).sqrt()


def draw_sigmas(count: int) -> torch.Tensor:
    high = torch.rand(count) < HIGH_SHARE
    low_end = torch.where(high, math.log(SIGMA_MIDDLE), math.log(SIGMA_MIN))
    high_end = torch.where(high, math.log(SIGMA_MAX), math.log(SIGMA_MIDDLE))
    return (low_end + torch.rand(count) * (high_end - low_end)).exp()


def moved(latents: torch.Tensor, motion: str, buckets: torch.Tensor) -> torch.Tensor:
    frames = latents[:, None].expand(-1, FRAMES, -1, -1, -1).flatten(0, 1)
    return warp(frames, matrices(motion, buckets).flatten(0, 1)).unflatten(0, (-1, FRAMES))


def draw(latents: Latents, motion: str, count: int):
    """Clips to learn from: wanted latents, noisy ones, sigmas, what is seen, buckets."""
    chosen = torch.randint(len(latents.clean), (count,))
    buckets = torch.randint(BUCKET_MIN, BUCKET_MAX + 1, (count,)).float()
    wanted = moved(latents.clean[chosen], motion, buckets)
    sigmas = draw_sigmas(count)
    noisy = wanted + sigmas.view(-1, 1, 1, 1, 1) * torch.randn_like(wanted)
    return wanted, noisy, sigmas, latents.seen[chosen], buckets


@torch.no_grad()
def start_near(unet, latents: Latents, motion: str) -> None:
    """The first answers are those that can be told from what random layers show: about a picture that stands still."""
    answers = []
    with Seen(unet.conv_out) as seen:
        for _ in range(SOLVED_FROM):
            wanted, noisy, sigmas, picture, buckets = draw(latents, motion, BATCH)
            predict(unet, noisy, sigmas, picture, buckets)
            sigma = sigmas.view(-1, 1, 1, 1, 1)
            answers.append(((noisy / (sigma**2 + 1) - wanted) * (sigma**2 + 1).sqrt() / sigma).flatten(0, 1))
    solve(unet.conv_out, seen.batches, answers, wanted.shape[2])


def train(unet, latents: Latents, motion: str, rate: float, minutes: float) -> dict[str, torch.Tensor]:
    """Trains what requires gradients; returns its running average."""
    schedule = Schedule(unet.parameters(), rate, minutes)
    trained = {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}
    average = {name: parameter.detach().clone() for name, parameter in trained.items()}
    losses, stills = [], []
    while not schedule.is_over():
        wanted, noisy, sigmas, seen, buckets = draw(latents, motion, BATCH)
        error = predict(unet, noisy, sigmas, seen, buckets) - wanted
        loss = error.square().mean()
        finish_step(loss, schedule)
        decay = min(AVERAGE_DECAY, 1 - 1 / (schedule.steps + 1))
        for name, parameter in trained.items():
            average[name].lerp_(parameter.detach(), 1 - decay)
        if float(sigmas.min()) > SIGMA_MIDDLE:
            losses.append(float(loss.detach()))
            stills.append(float((wanted[:, :1] - wanted).square().mean()))
        if schedule.steps % 25 == 0:
            mean, still = sum(losses[-60:]) / len(losses[-60:]), sum(stills[-60:]) / len(stills[-60:])
            log(f"{motion} {schedule.steps}: error at high noise {mean:.4f}, of a still picture {still:.4f}")
    return average
