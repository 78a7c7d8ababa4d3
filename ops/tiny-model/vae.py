"""Trains the VAE: `vae.py PHOTOGRAPHS OUT.pt MINUTES`.

First encoder and decoder on still pictures, then the decoder's temporal layers with the rest on whole clips: a temporal
norm takes its statistics over all frames that are decoded together, so it must see as many as it will decode later.
Half of all latents are moved before they are decoded and must come out as the moved picture (EQ-VAE, arXiv:2502.09509):
latents that move like pictures leave the UNet little to learn.
"""

import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from closed_form import Seen, solve
from model import SEED, new_vae
from motion import BUCKET_MAX, BUCKET_MIN, FRAMES, MOTIONS, clips, matrices, warp
from pictures import Pictures, validation
from training import Schedule, as_in_first, finish_step, is_first, log, own_seed, psnr, share, start

POOL = 1000
SOLVED_FROM = 30
# Of each process.
STILLS_BATCH = 2
CLIPS_BATCH = 1
# Of the minutes given.
STILLS_SHARE = 0.85
# Larger rates undo the least-squares answer: 3e-4 took it from 23 dB to 11 within 20 steps.
LEARNING_RATE, CLIPS_LEARNING_RATE = 1e-5, 1e-5
KL_WEIGHT = 1e-6
GRADIENT_WEIGHT = 0.5


def loss_of(shown: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Absolute error of pixels and of differences between neighbours: what is sharp must stay sharp."""
    error = shown - wanted
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + GRADIENT_WEIGHT * edges


def some_moves(count: int) -> torch.Tensor:
    """Any frame of any motion that is taught, (count, 2, 3)."""
    buckets = torch.randint(BUCKET_MIN, BUCKET_MAX + 1, (count,)).float()
    of_all = torch.stack([matrices(motion, buckets) for motion in MOTIONS])
    return of_all[torch.randint(len(MOTIONS), (count,)), torch.arange(count), torch.randint(FRAMES, (count,))]


@torch.no_grad()
def start_near(vae, pool: torch.Tensor) -> None:
    """Three of the latents' channels start as the reduced picture, and pictures as what can be told from latents."""
    channels = pool.shape[1]
    weight = torch.zeros_like(vae.quant_conv.weight[: vae.config.latent_channels])
    weight[:, : len(weight), 0, 0] = torch.eye(len(weight))
    vae.quant_conv.weight[: len(weight)], vae.quant_conv.bias[: len(weight)] = weight, 0
    batches = [batch.float() for batch in pool[:SOLVED_FROM].split(10)]
    with Seen(vae.encoder.conv_out) as seen:
        for batch in batches:
            vae.encode(batch)
    solve(vae.encoder.conv_out, seen.batches, [F.avg_pool2d(batch, 4) for batch in batches], channels)
    with Seen(vae.decoder.conv_out) as seen:
        for batch in batches:
            vae.decode(vae.encode(batch).latent_dist.mean, num_frames=1)
    solve(vae.decoder.conv_out, seen.batches, batches, channels)


def train_stills(vae, pool: torch.Tensor, pictures: torch.Tensor, minutes: float) -> None:
    temporal = [module for name, module in vae.decoder.named_modules() if name.endswith("temporal_res_block")]
    for block in temporal:
        # Zero-initialised: they would compute nothing.
        block.forward = lambda hidden, embedding=None: hidden
    start_near(vae, pool)
    as_in_first(vae)
    if is_first():
        log(f"least squares: {still_psnr(vae, pictures):.2f} dB")
    schedule = Schedule(vae.parameters(), LEARNING_RATE, minutes)
    while not schedule.is_over():
        wanted = pool[torch.randint(len(pool), (STILLS_BATCH,))].float()
        half = STILLS_BATCH // 2
        encoded = vae.encode(wanted).latent_dist
        latents = encoded.sample()
        moves = some_moves(half)
        latents = torch.cat([latents[:half], warp(latents[half:], moves)])
        wanted = torch.cat([wanted[:half], warp(wanted[half:], moves).clamp(-1, 1)])
        shown = vae.decode(latents, num_frames=1).sample
        loss = loss_of(shown, wanted) + KL_WEIGHT * encoded.kl().float().mean()
        finish_step(loss, schedule)
        if schedule.steps % 20 == 0 and is_first():
            with torch.no_grad():
                latents = vae.encode(pictures).latent_dist.mean
                moves = some_moves(len(pictures))
                moved = psnr(vae.decode(warp(latents, moves), num_frames=1).sample, warp(pictures, moves).clamp(-1, 1))
            log(f"stills {schedule.steps}: loss {loss:.4f}, PSNR {still_psnr(vae, pictures):.2f} dB, moved {moved:.2f} dB")
    for block in temporal:
        del block.forward


@torch.no_grad()
def still_psnr(vae, pictures: torch.Tensor) -> float:
    return psnr(vae.decode(vae.encode(pictures).latent_dist.mean, num_frames=1).sample, pictures)


def train_clips(vae, pool: torch.Tensor, pictures: torch.Tensor, minutes: float) -> None:
    schedule = Schedule(vae.parameters(), CLIPS_LEARNING_RATE, minutes)
    while not schedule.is_over():
        buckets = torch.randint(BUCKET_MIN, BUCKET_MAX + 1, (CLIPS_BATCH,)).float()
        motion = MOTIONS[int(torch.randint(len(MOTIONS), ()))]
        wanted = clips(motion, pool[torch.randint(len(pool), (CLIPS_BATCH,))].float(), buckets).flatten(0, 1)
        encoded = vae.encode(wanted).latent_dist
        shown = vae.decode(encoded.sample(), num_frames=FRAMES).sample
        loss = loss_of(shown, wanted) + KL_WEIGHT * encoded.kl().float().mean()
        finish_step(loss, schedule)
        if schedule.steps % 20 == 0 and is_first():
            log(f"clips {schedule.steps}: loss {loss:.4f}, PSNR {clips_psnr(vae, pictures):.2f} dB")


@torch.no_grad()
def clips_psnr(vae, pictures: torch.Tensor) -> float:
    """Of zooming clips, encoded and decoded."""
    wanted = clips("zoom", pictures, torch.full((len(pictures),), 127.0))
    shown = torch.stack([vae.decode(vae.encode(clip).latent_dist.mean, num_frames=FRAMES).sample for clip in wanted])
    return psnr(shown, wanted)


@torch.no_grad()
def normalise(vae, pool: torch.Tensor) -> None:
    """Gives each channel of the latents mean 0 and deviation 1 by rewriting the layers beside them. Pictures stay the same."""
    latents = torch.cat([vae.encode(pool[i : i + 50].float()).latent_dist.mean for i in range(0, min(1000, len(pool)), 50)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    quant, channels = vae.quant_conv, len(mean)
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / deviation
    quant.bias[channels:] -= 2 * deviation.log()
    first = vae.decoder.conv_in
    # Zero padding stands for the mean only after this; what the border loses is learnt again from the clips.
    first.bias += (first.weight.sum((2, 3)) * mean).sum(1)
    first.weight *= deviation[:, None, None]
    as_in_first(vae)


def main() -> None:
    photographs, out, minutes = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    start(SEED)
    vae = new_vae()
    pool = Pictures(photographs, own_seed(SEED)).draw(share(POOL)).half()
    pictures = validation(photographs)
    log(f"{POOL} pictures drawn")
    train_stills(vae, pool, pictures, minutes * STILLS_SHARE)
    normalise(vae, pool)
    train_clips(vae, pool, pictures, minutes * (1 - STILLS_SHARE))
    normalise(vae, pool)
    if is_first():
        torch.save(vae.state_dict(), out)
    log("done")


main()
