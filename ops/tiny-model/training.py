"""What the training programs share: fixed seeds, learning rate, a log that counts processor time."""

import math
import time

import torch

THREADS = 1
WARM_UP_STEPS = 50
GRADIENT_NORM_MAX = 1.0
WEIGHT_DECAY = 1e-4
STARTED = time.time()


def start(seed: int) -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(seed)


def log(line: str) -> None:
    """With the seconds since the start and those that processors worked, all threads together."""
    print(f"[{time.time() - STARTED:6.0f} s, {time.process_time():6.0f} CPU s] {line}", flush=True)


class Schedule:
    """AdamW for a number of minutes; the rate rises for the first steps and falls to nothing along a cosine of the time."""

    def __init__(self, parameters, rate: float, minutes: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, rate, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, foreach=True)
        self.rate, self.seconds, self.begun, self.steps = rate, minutes * 60, time.monotonic(), 0

    def part_done(self) -> float:
        return min((time.monotonic() - self.begun) / self.seconds, 1.0)

    def is_over(self) -> bool:
        return self.part_done() >= 1.0


def finish_step(loss: torch.Tensor, schedule: Schedule) -> None:
    if not loss.isfinite():
        raise RuntimeError("the loss is no number any more: lower the learning rate")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(schedule.parameters, GRADIENT_NORM_MAX)
    schedule.steps += 1
    slope = 0.5 + 0.5 * math.cos(math.pi * schedule.part_done())
    for group in schedule.optimizer.param_groups:
        group["lr"] = schedule.rate * min(schedule.steps / WARM_UP_STEPS, slope)
    schedule.optimizer.step()
    schedule.optimizer.zero_grad()


def psnr(shown: torch.Tensor, wanted: torch.Tensor) -> float:
    """Decibels, of values in -1..=1 cut to that range; the mean over pictures or clips (the first axis)."""
    error = (shown.clamp(-1, 1) - wanted).square().flatten(1).mean(1)
    return float((10 * (4 / error).log10()).mean())
