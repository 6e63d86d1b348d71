"""Learning rates and averaged weights: functions of the step, so that a resumed run continues exactly."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from retinue.tasks.task import Model
from retinue.tools.options import Train


def factor(options: Train, step: int, steps_an_epoch: int) -> float:
    """What the learning rates are multiplied by at `step` (from 0): linear warm-up, then the schedule.

    cosine: half a period down to 0 (Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts);
    step: `gamma` every `step_epochs`; constant and plateau: 1 (a plateau's steps are `Plateau`'s).
    """
    warmup = round(options.warmup * steps_an_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if options.schedule == "cosine":
        total = options.epochs * steps_an_epoch
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    if options.schedule == "step":
        return options.gamma ** (step // (options.step_epochs * steps_an_epoch))
    return 1.0


@dataclass
class Plateau:
    """Multiplies the rates by `gamma` once the metric has not improved for `wait` epochs; counts for patience too."""

    gamma: float
    wait: int
    reduce: bool
    best: float = -math.inf
    since: int = 0
    factor: float = 1.0

    def update(self, score: float) -> bool:
        """Take in an epoch's score (larger is better); True if it is the best so far."""
        better = score > self.best
        self.best, self.since = (score, 0) if better else (self.best, self.since + 1)
        if self.reduce and not better and self.since % self.wait == 0:
            self.factor *= self.gamma
        return better

    def state(self) -> dict[str, Any]:
        """Plain values to continue from."""
        return {"best": self.best, "since": self.since, "factor": self.factor}


class Ema:
    """An exponential moving average of a module's floating-point state, buffers included.

    The decay warms up as min(decay, (1 + n) / (10 + n)) over updates n, so that the start is soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - decay)
            else:
                self.average[name].copy_(tensor)


def parameter_groups(
    model: Model, lr: float, backbone_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: backbone and heads with their own rates; biases and norms (1-d tensors) without decay.

    What tasks took over from the backbone (fc6, res5) has its rate; what is new in it (a pyramid) has the heads'.
    Frozen parameters are left out; empty groups too. `base_lr` keeps each group's rate before the schedule.
    """
    pretrained = model.pretrained_parameters()
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter in pretrained, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "base_lr": backbone_lr if in_backbone else lr,
            "lr": backbone_lr if in_backbone else lr,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]


def make_optimizer(options: Train, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2017, arXiv:1711.05101) or SGD with Nesterov momentum."""
    if options.optimizer == "adamw":
        # One kernel for all tensors: a tenth of a step of a detector's time, 40 million parameters' worth of traffic.
        return torch.optim.AdamW(groups, lr=1.0, fused=True)
    return torch.optim.SGD(groups, lr=1.0, momentum=options.momentum, nesterov=options.momentum > 0)
