"""Train a task on data: from a folder of pictures to a saved model.

    retinue train classification data=photos backbone=resnet18 weights=imagenet epochs=10

Writes runs/<task>/<name>[N]/: args.yaml, results.csv and .png, weights/{best,last}.safetensors, state/ (what
resume=RUN needs), the first batch and validation samples drawn, the task's own curves, train.log, env.txt.
Several processes: `torchrun --nproc-per-node 2 -m retinue.tools.train classification ...`; `batch` is over all.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from retinue.datasets.targets import Pictures, Target
from retinue.tasks import model_file
from retinue.tasks.task import Model
from retinue.tools import evaluate, run_folder, state
from retinue.tools.loader import epoch_batches, share
from retinue.tools.options import Train
from retinue.tools.progress import Log, counting
from retinue.tools.schedule import Ema, Plateau, factor, make_optimizer, parameter_groups
from retinue.tools.setup import Setup, prepare
from retinue.tools.step import TrainingStopped, descend


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
            "generators": state.generators(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """The inverse of `state`."""
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
        state.set_generators(saved["generators"])


def train(task: str = "", **settings: Any) -> Path:
    """Train, and return the run's folder. Options are `options.Train`'s and the task's own settings.

    Raises UsageError or DataError for what was asked or given wrongly, TrainingStopped where training cannot go on.

    >>> from retinue.tools.train import train                                       # doctest: +SKIP
    >>> train("classification", data="photos", backbone="resnet18", epochs=5)       # doctest: +SKIP
    """
    setup = prepare({**settings, "task": task} if task else settings)
    if setup.options.method != "descend":
        from retinue.tools.probe import probe  # scikit-learn is imported only where it is used

        return probe(setup)
    options, log = setup.options, setup.log
    run = start(setup)
    saved = state.read(setup.folder / "state") if options.resume else None
    if saved:
        run.restore(saved)
        log(f"resumed at epoch {run.epoch + 1}, step {run.step}")
    batches = -(-len(setup.train_set) // options.batch)
    while run.epoch < options.epochs and not out_of_patience(setup, run):
        train_epoch(setup, run, batches)
        with averaged(run):
            end_epoch(setup, run, validate(setup, run))
        save_state(setup, run)  # last: until it is written, a resumed run repeats the epoch
    setup.accelerator.wait_for_everyone()
    finish(setup, run)
    return setup.folder


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


def train_epoch(setup: Setup, run: Run, batches: int) -> None:
    """The rest of an epoch: from `run.step` on. Leaves the state at the next epoch's beginning."""
    options, rank, ranks = setup.options, setup.rank, setup.ranks
    order = epoch_batches(len(setup.train_set), options.batch, options.seed, run.epoch)
    keys = [[(run.epoch, int(i)) for i in share(b, rank, ranks)] for b in order]
    run.model.train()
    saved_at = time.monotonic()
    with counting(f"epoch {run.epoch + 1}/{options.epochs}", setup.log, batches) as progress:
        progress(run.step)
        for pictures, targets in setup.train_loader.batches(keys[run.step :]):
            set_rates(options, run, run.epoch * batches + run.step, batches)
            if run.epoch == run.step == 0:
                draw_first_batch(setup, pictures, targets)
            losses = descend(setup, run, pictures, targets, len(order[run.step]))
            for name, value in losses.items():
                run.sums[name] = run.sums.get(name, 0.0) + value * len(order[run.step])
            if run.ema:
                run.ema.update(run.model)
            run.step += 1
            progress(1, f"loss {sum(losses.values()):.3f}")
            if time.monotonic() - saved_at > 60 * options.save_minutes and run.step < batches:
                save_state(setup, run)
                saved_at = time.monotonic()


def set_rates(options: Train, run: Run, step: int, batches: int) -> None:
    """Give every group its learning rate for this step."""
    scale = factor(options, step, batches) * run.plateau.factor
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


def validate(setup: Setup, run: Run) -> dict[str, float]:
    """The validation figures of the model as it stands; {} where there is no validation split."""
    if setup.val_set is None or setup.val_loader is None:
        return {}
    metrics = evaluate.collect(
        run.model, setup.val_loader, len(setup.val_set), setup.options.batch, setup.device, setup.precision, setup.log
    )
    if setup.accelerator.is_main_process:
        evaluate.draw_plots(run.model.tasks, metrics, setup.folder)
    return evaluate.figures(metrics)


def out_of_patience(setup: Setup, run: Run) -> bool:
    """Whether the metric has not improved for `patience` epochs."""
    return bool(setup.options.patience and run.plateau.since >= setup.options.patience)


def end_epoch(setup: Setup, run: Run, values: dict[str, float]) -> None:
    """Write the epoch down: results and weights."""
    options, log = setup.options, setup.log
    row: dict[str, float] = {"epoch": run.epoch + 1, **epoch_losses(setup, run)}
    row |= {f"lr/{g}": v for g, v in current_rates(run).items()}
    row |= {name: value for name, value in values.items() if "/" not in name or len(run.model.tasks) > 1}
    run.history.append(row)
    name, sign = setup.headline
    best = run.plateau.update(sign * values[name] if name in values else run.epoch)
    shown = [name, *(k for k in ("top5", "loss") if k in values and k != name)]
    losses = " ".join(f"{k.removeprefix('train/')} {v:.4f}" for k, v in row.items() if k.startswith("train/"))
    figures = " ".join(f"{k} {values[k]:.4f}" for k in shown if k in values)
    log(f"epoch {run.epoch + 1}/{options.epochs}: {losses} | {figures}{' (best)' if best and figures else ''}")
    run.epoch, run.step, run.sums = run.epoch + 1, 0, {}
    if setup.accelerator.is_main_process:
        facts = setup.facts | {"epoch": run.epoch, "metrics": values}
        weights = setup.folder / "weights"
        weights.mkdir(exist_ok=True)
        model_file.save(run.model, weights / "last.safetensors", **facts)
        if best:
            model_file.save(run.model, weights / "best.safetensors", **facts)
        run_folder.write_results(setup.folder, run.history)
        if setup.writer:
            for key, value in row.items():
                setup.writer.add_scalar(key, value, run.epoch)


def epoch_losses(setup: Setup, run: Run) -> dict[str, float]:
    """Mean losses of the epoch over all pictures and processes."""
    names = sorted(run.sums)
    totals = torch.tensor([run.sums[name] for name in names], dtype=torch.float64) / len(setup.train_set)
    if setup.ranks > 1:
        totals = totals.to(setup.device, torch.float32)
        dist.all_reduce(totals)
        totals /= setup.ranks
    prefix = len(run.model.tasks) == 1
    return {
        f"train/{name.split('/', 1)[1] if prefix else name}": value for name, value in zip(names, totals.tolist())
    }


def current_rates(run: Run) -> dict[str, float]:
    """Learning rates as last used, of the backbone and of the heads."""
    trainable = {id(p) for p in run.model.backbone.parameters()}
    return {
        "backbone" if id(group["params"][0]) in trainable else "head": group["lr"] for group in run.optimizer.param_groups
    }


def save_state(setup: Setup, run: Run) -> None:
    """Write what resume needs: by the main process, with the own weights, not the averaged ones."""
    if setup.accelerator.is_main_process:
        state.write(setup.folder / "state", run.state())


def draw_first_batch(setup: Setup, pictures: Pictures, targets: list[Target]) -> None:
    """What the network is given, drawn with class names: where a wrong label or a wrong box shows first."""
    if setup.accelerator.is_main_process:
        for name, task in setup.model.tasks.items():
            image = task.draw_batch(pictures, targets)  # type: ignore[operator]
            setup.write_image(f"first_batch{'' if len(setup.model.tasks) == 1 else '-' + name}.jpg", image)


def finish(setup: Setup, run: Run) -> None:
    """Pictures of the whole run and a last line that says what to type next."""
    if not setup.accelerator.is_main_process:
        return
    name, sign = setup.headline
    run_folder.plot_results(setup.folder, run.history, name)
    setup.draw_predictions(run.model)
    scored = [(sign * row[name], row["epoch"]) for row in run.history if name in row]
    if out_of_patience(setup, run):
        setup.log(f"stopped: no progress for {setup.options.patience} epochs (patience)")
    if scored:
        score, epoch = max(scored, key=lambda pair: (pair[0], -pair[1]))
        setup.log(f"best {name} {sign * score:.4f} at epoch {epoch}")
    setup.log(f"results in {setup.folder}")
    setup.log(f"next: retinue predict {setup.folder} YOUR_PICTURES")
    run_folder.write_json(setup.options.json, {"run": str(setup.folder), "epochs": run.history})
    setup.close()


def run(settings: dict[str, Any]) -> int:
    """The command."""
    train(**settings)
    return 0


if __name__ == "__main__":  # torchrun -m retinue.tools.train
    from retinue.tools.command import main

    sys.exit(main(["train", *sys.argv[1:]]))
