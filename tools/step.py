"""One step of gradient descent, and what to do when it cannot be done."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import torch

from retinue.datasets.targets import Pictures, Target, split_bounds
from retinue.tools.devices import autocast
from retinue.tools.options import UsageError
from retinue.tools.setup import Setup
from retinue.tools.training_run import Run


class TrainingStopped(RuntimeError):
    """Training cannot go on; what was computed until the last saved state is kept."""


def descend(
    setup: Setup, run: Run, pictures: Pictures, targets: list[Target], total: int
) -> dict[str, float]:
    """One optimizer step on this process's share of a batch of `total` pictures; returns the batch's mean losses.

    The batch is computed in `run.pieces` pieces whose gradients add up. Out of memory doubles the pieces, says so,
    and computes the step anew; TrainingStopped names the pictures where that does not help, and where a loss is
    not finite.
    """
    while True:
        try:
            means = gradients(setup, run, pictures, targets, total)
            break
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            reason = str(error).splitlines()[0]
        run.optimizer.zero_grad(set_to_none=True)
        if setup.device.type == "cuda":
            torch.cuda.empty_cache()
        if setup.ranks > 1 or run.pieces >= len(pictures):
            remedy = "a smaller imgsz, a smaller backbone or tune=head"
            if setup.ranks > 1:
                remedy = "accumulate=2 or more, a smaller batch (processes must agree on it from the start)"
            raise TrainingStopped(f"out of memory ({reason}) on {names(pictures)}; try {remedy}")
        run.pieces *= 2
        setup.log(
            f"out of memory: every batch is now computed in {run.pieces} pieces, whose gradients add up (batch norm "
            f"and class weights see a piece at a time)"
        )
    parameters = [p for p in run.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    # Read once all of the work is under way: a GPU is waited for once a step. The norm is that of the gradients
    # averaged over processes, so that all of them stop together.
    *values, length = torch.stack([*means.values(), norm.float()]).tolist()
    losses = dict(zip(means, values))
    check_finite({**losses, "gradient norm": length}, pictures, setup)
    if setup.options.clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, setup.options.clip, norm)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return losses


def gradients(
    setup: Setup, run: Run, pictures: Pictures, targets: list[Target], total: int
) -> dict[str, torch.Tensor]:
    """Add up the gradients of a batch's pieces; returns its mean losses over all pieces."""
    means: dict[str, torch.Tensor] = {}
    smallest = total // setup.ranks  # so that every process has the same number of pieces
    pieces = max(1, min(run.pieces, smallest))
    bounds = split_bounds(len(pictures), pieces)
    for k, (start, stop) in enumerate(bounds):
        part = pictures[slice(start, stop)].to(setup.device, torch.channels_last)
        truth = [{key: value.to(setup.device) for key, value in t.items()} for t in targets[start:stop]]
        weight = piece_size(total, setup.ranks, pieces, k) / total
        last = k == len(bounds) - 1
        with torch.enable_grad(), setup.synchronising(run.wrapped, last), enough_for_norms(len(part)):
            with autocast(setup.precision, setup.device):
                losses = run.wrapped(part, truth)
            setup.accelerator.backward(torch.stack(list(losses.values())).sum() * weight)
        for name, value in losses.items():
            means[name] = means.get(name, 0.0) + value.detach().float() * weight
    return means


@contextlib.contextmanager
def enough_for_norms(count: int) -> Iterator[None]:
    """UsageError, with the remedy, where batch norm has a single value to take its statistics from."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            f"batch norm cannot learn from {count} picture at a time on maps of one pixel; try a larger batch "
            f"or imgsz, accumulate=1, or frozen_norm=true"
        ) from None


def piece_size(total: int, ranks: int, pieces: int, k: int) -> int:
    """Pictures in the k-th piece of a batch, over all processes."""
    shares = [len(part) for part in np.array_split(np.empty(total), ranks)]
    return sum(bounds[k][1] - bounds[k][0] for n in shares if k < len(bounds := split_bounds(n, pieces)))


def check_finite(losses: dict[str, float], pictures: Pictures, setup: Setup) -> None:
    """Stop at the first loss that is NaN or infinite, before it spoils the weights."""
    wrong = [f"{name}={value}" for name, value in losses.items() if not math.isfinite(value)]
    if wrong:
        remedy = "precision=fp32, " if setup.precision == "bf16" else ""
        raise TrainingStopped(
            f"the loss or its gradient is not finite ({', '.join(wrong)}) on {names(pictures)}; the state before is "
            f"kept in {setup.folder / 'state'}; try {remedy}a lower lr, clip=1, or retinue check for these pictures"
        )


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on any device."""
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "not enough memory" in str(error)
        or "out of memory" in str(error)
    )


def names(pictures: Pictures) -> str:
    """The pictures of a batch, for an error message."""
    return ", ".join(pictures.ids[:64])
