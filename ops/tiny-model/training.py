"""What the training programs share: fixed seeds, learning rate, gradients of two processes, a log that counts processor time.

Two processes of one thread each learn from pictures of their own and share their gradients: layers this small are done
before a second thread has begun.
"""

import math
import time

import torch
import torch.distributed as dist

WARM_UP_STEPS = 50
GRADIENT_NORM_MAX = 1.0
WEIGHT_DECAY = 1e-4
STARTED = time.time()


def start(seed: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    dist.init_process_group("gloo")


def own_seed(seed: int) -> int:
    """From here on each process draws numbers of its own, from the seed that is returned."""
    own = seed * 100 + dist.get_rank()
    torch.manual_seed(own)
    return own


def share(count: int) -> int:
    """How many of `count` things are this process's."""
    return count // dist.get_world_size()


def is_first() -> bool:
    return dist.get_rank() == 0


def as_in_first(module: torch.nn.Module) -> None:
    """Gives the module the first process's weights."""
    for parameter in module.parameters():
        dist.broadcast(parameter.data, 0)


def log(line: str) -> None:
    """With the seconds since the start and those that processors worked, all processes together."""
    if is_first():
        worked = time.process_time() * dist.get_world_size()
        print(f"[{time.time() - STARTED:6.0f} s, {worked:6.0f} CPU s] {line}", flush=True)


class Schedule:
    """AdamW for a number of minutes; the rate rises for the first steps and falls to nothing along a cosine of the time."""

    def __init__(self, parameters, rate: float, minutes: float) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, rate, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, foreach=True)
        self.rate, self.seconds, self.begun, self.steps = rate, minutes * 60, time.monotonic(), 0

        self.part_done = 0.0

    def is_over(self) -> bool:
        return self.part_done >= 1.0


def finish_step(loss: torch.Tensor, schedule: Schedule) -> None:
    """One step along the mean gradient of all processes."""
    if not loss.isfinite():
        raise RuntimeError("the loss is no number any more: lower the learning rate")
    loss.backward()
    average_gradients(schedule)
    torch.nn.utils.clip_grad_norm_(schedule.parameters, GRADIENT_NORM_MAX)
    schedule.steps += 1
    slope = 0.5 + 0.5 * math.cos(math.pi * min(schedule.part_done, 1.0))
    for group in schedule.optimizer.param_groups:
        group["lr"] = schedule.rate * min(schedule.steps / WARM_UP_STEPS, slope)
    schedule.optimizer.step()
    schedule.optimizer.zero_grad()


def average_gradients(schedule: Schedule) -> None:
    """The time travels with them, so that all processes stop after the same step."""
    learnt = [parameter for parameter in schedule.parameters if parameter.grad is not None]
    time_part = torch.tensor([(time.monotonic() - schedule.begun) / schedule.seconds])
    flat = torch.cat([parameter.grad.flatten() for parameter in learnt] + [time_part])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    schedule.part_done = float(flat[-1])
    begin = 0
    for parameter in learnt:
        parameter.grad.copy_(flat[begin : begin + parameter.numel()].view_as(parameter))
        begin += parameter.numel()


def psnr(shown: torch.Tensor, wanted: torch.Tensor) -> float:
    """Decibels, of values in -1..=1 cut to that range; the mean over pictures or clips (the first axis)."""
    error = (shown.clamp(-1, 1) - wanted).square().flatten(1).mean(1)
    return float((10 * (4 / error).log10()).mean())
