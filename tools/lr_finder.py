"""The learning-rate range test (Smith 2015, arXiv:1506.01186): raise the rate each step and watch the loss."""

import copy
import math

import numpy as np
import torch
import torch.distributed as dist

from retinue.tools.loader import share
from retinue.tools.progress import track
from retinue.tools.setup import Setup
from retinue.tools.step import TrainingStopped, descend
from retinue.tools.training_run import Run, start

LOWEST, STEPS = 1e-6, 80
HIGHEST = {"adamw": 0.1, "sgd": 1.0}
SMOOTHING = 0.9
"""Of the loss over steps, corrected for its start."""


def find_lr(setup: Setup) -> float:
    """A learning rate for the head: where the smoothed loss falls fastest over log(rate).

    The test trains a copy of the model, from LOWEST to HIGHEST, and ends once the loss is four times its least.
    The backbone's rate keeps its default ratio to the head's, or the value that was given. All processes see the
    same losses, and so find the same rate. Raises TrainingStopped where the loss never falls.
    """
    original = setup.model
    setup.model = copy.deepcopy(original)
    given = setup.options.backbone_lr
    ratio = 0.1 if setup.options.weights or setup.options.model else 1.0
    setup.learning_rates = 1.0, ratio if given is None else given
    try:
        run = start(setup)
        rates, losses = _sweep(setup, run)
    finally:
        setup.model = original
        setup.accelerator.free_memory()
    best = steepest(rates, losses)
    setup.log(
        f"lr=find: the loss falls fastest at {best:.3g} ({len(rates)} steps from {rates[0]:.1g} to {rates[-1]:.1g})"
    )
    return best


def _sweep(setup: Setup, run: Run) -> tuple[list[float], list[float]]:
    options = setup.options
    order: list[np.ndarray] = []
    keys: list[list[tuple[int, int]]] = []
    epoch = 0
    while len(order) < STEPS:
        for batch in setup.epoch_batches(epoch):
            order.append(batch)
            keys.append([(epoch, int(i)) for i in share(batch, setup.rank, setup.ranks)])
        epoch += 1
    rates = np.geomspace(LOWEST, HIGHEST[options.optimizer], STEPS).tolist()
    losses: list[float] = []
    smooth = 0.0
    run.model.train()
    batches = setup.train_loader.batches(keys[:STEPS])
    for step, (pictures, targets) in enumerate(track(batches, "lr=find", setup.log, STEPS)):
        for group in run.optimizer.param_groups:
            fixed = options.backbone_lr is not None and group["base_lr"] == options.backbone_lr
            group["lr"] = group["base_lr"] * (1.0 if fixed else rates[step])
        try:
            own = sum(descend(setup, run, pictures, targets, len(order[step])).values())
        except TrainingStopped:
            own = math.inf
        loss = mean_over_processes(setup, own)
        if not math.isfinite(loss):
            break
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        losses.append(smooth / (1 - SMOOTHING ** (step + 1)))
        if losses[-1] > 4 * min(losses):
            break
    return rates[: len(losses)], losses


def mean_over_processes(setup: Setup, value: float) -> float:
    """The mean of a number over all processes."""
    if setup.ranks == 1:
        return value
    total = torch.tensor(value, device=setup.device)
    dist.all_reduce(total)
    return float(total) / setup.ranks


def steepest(rates: list[float], losses: list[float]) -> float:
    """The rate at which the loss falls fastest over log(rate); TrainingStopped where it never falls.

    The first tenth of the steps is left out: the smoothed loss has not settled there.
    """
    if len(losses) < 10:
        raise TrainingStopped(
            f"lr=find: the loss was not finite or exploded after {len(losses)} steps; give lr=NUMBER"
        )
    slopes = np.gradient(np.asarray(losses), np.log(np.asarray(rates)))
    skip = len(losses) // 10
    k = skip + int(np.argmin(slopes[skip:]))
    if slopes[k] >= 0:
        raise TrainingStopped(
            "lr=find: the loss never fell; give lr=NUMBER, and look at first_batch.jpg for wrong labels"
        )
    return rates[k]
