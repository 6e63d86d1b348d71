"""A run of training: all that changes while it goes on, and how it is saved and restored."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from retinue.datasets.targets import DataError
from retinue.tasks.task import Model
from retinue.tools.schedule import Ema, Plateau, factor, make_optimizer, parameter_groups
from retinue.tools.setup import Setup


@dataclass
class Run:
    """All that changes while a run goes on. `epoch` and `step` say what comes next; `sums` are this epoch's losses."""

    model: Model
    wrapped: torch.nn.Module
    optimizer: torch.optim.Optimizer
    plateau: Plateau
    ema: Ema | None
    pieces: int
    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Everything, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": {"average": self.ema.average, "updates": self.ema.updates} if self.ema else None,
            "plateau": self.plateau.state(),
            "pieces": self.pieces,
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """The inverse of `state`. DataError where the state is of another run, or of no run at all."""
        try:
            self._restore(saved)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            first = str(error).splitlines()[:2]
            raise DataError(
                f"state/state.pt does not fit this run ({type(error).__name__}: {' '.join(first)}); start a new run "
                f"with model="
            ) from error

    def _restore(self, saved: dict[str, Any]) -> None:
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema and saved["ema"]:
            for name, tensor in saved["ema"]["average"].items():
                self.ema.average[name].copy_(tensor)
            self.ema.updates = saved["ema"]["updates"]
        for name, value in saved["plateau"].items():
            setattr(self.plateau, name, value)
        for name in ("pieces", "epoch", "step", "sums", "history"):
            setattr(self, name, saved[name])


def start(setup: Setup) -> Run:
    """The model on its device, its optimizer, and everything else at its beginning."""
    options = setup.options
    model = setup.model.to(setup.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    lr, backbone_lr = setup.learning_rates
    optimizer = make_optimizer(options, parameter_groups(model, lr, backbone_lr, options.weight_decay))
    wrapped, optimizer = setup.accelerator.prepare(model, optimizer)
    plateau = Plateau(options.gamma, options.plateau, options.schedule == "plateau")
    ema = Ema(model, options.ema) if options.ema else None
    return Run(model, wrapped, optimizer, plateau, ema, options.accumulate)


def set_rates(setup: Setup, run: Run, step: int, batches: int) -> None:
    """Give every group its learning rate for this step."""
    scale = factor(setup.options, step, batches) * run.plateau.factor
    for group in run.optimizer.param_groups:
        group["lr"] = group["base_lr"] * scale


@contextlib.contextmanager
def averaged(run: Run) -> Iterator[None]:
    """Within, the model holds its averaged weights, if there are any; afterwards its own again, bit for bit."""
    if run.ema is None:
        yield
        return
    own = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.model.load_state_dict(run.ema.average)
    try:
        yield
    finally:
        run.model.load_state_dict(own)
