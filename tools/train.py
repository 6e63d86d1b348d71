"""Train a task on data: from a folder of pictures to a saved model.

    retinue train classification data=photos backbone=resnet18 weights=imagenet epochs=10

Writes runs/<task>/<name>[N]/: args.yaml, results.csv and .png, weights/{best,last}.safetensors, state/ (what
resume=RUN needs), the first batch and validation samples drawn, the task's own curves, train.log, env.txt.
Several processes: `torchrun --nproc-per-node 2 -m retinue.tools.train classification ...`; `batch` is over all.
"""

import contextlib
import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from retinue.tasks import model_file
from retinue.tasks.task import Metric
from retinue.tools import evaluate, run_folder
from retinue.tools.command import main
from retinue.tools.loader import batches_an_epoch
from retinue.tools.loop import save_state, train_epoch
from retinue.tools.lr_finder import find_lr
from retinue.tools.probe import check_fit, probe
from retinue.tools.setup import Setup, open_folder, prepare, resolve_rates
from retinue.tools.step import TrainingStopped, out_of_memory
from retinue.tools.training_run import Run, averaged, start
from retinue.tools.unfold import restore_norms


def train(task: str = "", **settings: Any) -> Path:
    """Train, and return the run's folder. Options are `options.Train`'s and the task's own settings.

    Raises UsageError or DataError for what was asked or given wrongly, TrainingStopped where training cannot go on.

    >>> from retinue.tools.train import train                                       # doctest: +SKIP
    >>> train("classification", data="photos", backbone="resnet18", epochs=5)       # doctest: +SKIP
    """
    setup = prepare({**settings, "task": task} if task else settings)
    if setup.fits:
        check_fit(setup)
    if setup.descends:
        if setup.saved is None:
            restore_norms(setup)
        resolve_rates(setup, find_lr)
    open_folder(setup)
    try:
        run = descend_epochs(setup) if setup.descends else None
        if setup.fits:
            with averaged(run) if run else contextlib.nullcontext():
                probe(setup, run.history if run else [])
    except RuntimeError as error:
        stopped = TrainingStopped(memory_remedy(error)) if out_of_memory(error) else error
        setup.log(f"stopped: {stopped}")
        if stopped is error:
            raise
        raise stopped from error
    finally:
        setup.close()
    return setup.folder


def descend_epochs(setup: Setup) -> Run:
    """All epochs that are left, each trained, validated and written down; where a fit follows, that is validated."""
    options = setup.options
    run = start(setup)
    if setup.saved is not None:
        run.restore(setup.saved)
        setup.log(f"resumed at epoch {run.epoch + 1}, step {run.step}")
    else:
        if options.resume:
            setup.log("no state was saved yet: the run starts from its beginning")
        if setup.fits:
            setup.log(f"{options.epochs} epochs of descent, which are judged by what is fitted after them")
        elif setup.val_set is None:
            setup.log("no val or test split: nothing is validated, and the last epoch counts as the best")
        # From now on a resume needs neither the weights nor the model that it began with.
        save_state(setup, run)
    batches = batches_an_epoch(len(setup.train_set), options.batch, setup.ranks)
    while run.epoch < options.epochs and not out_of_patience(setup, run):
        train_epoch(setup, run, batches)
        judged = is_judged(setup, run.epoch)
        with averaged(run):
            end_epoch(setup, run, validate(setup, run) if judged else {}, judged)
        save_state(setup, run)  # last: until it is written, a resumed run repeats the epoch
    setup.accelerator.wait_for_everyone()
    if not setup.fits:
        finish(setup, run)
    return run


def memory_remedy(error: RuntimeError) -> str:
    """What to do where memory ran out beside a step: in validation, or for the optimizer's own state."""
    return (
        f"out of memory ({str(error).splitlines()[0]}); what was saved is kept; try a smaller batch or imgsz, "
        f"a smaller backbone, tune=head, or optimizer=sgd"
    )


def validate(setup: Setup, run: Run) -> dict[str, Metric]:
    """Every task's metric of the model as it stands; {} where epochs are not validated."""
    if not setup.validates:
        return {}
    assert setup.val_set is not None and setup.val_loader is not None
    return evaluate.collect(
        run.model,
        setup.val_loader,
        len(setup.val_set),
        setup.options.batch,
        setup.device,
        setup.precision,
        setup.log,
    )


def out_of_patience(setup: Setup, run: Run) -> bool:
    """Whether the metric has not improved in `patience` validations."""
    return bool(setup.options.patience and run.plateau.since >= setup.options.patience)


def is_judged(setup: Setup, epoch: int) -> bool:
    """Whether this epoch, from 0, may be the best: without validation every one, the later the better."""
    options, done = setup.options, epoch + 1
    return not setup.validates or done % options.eval_every == 0 or done == options.epochs


def end_epoch(setup: Setup, run: Run, metrics: dict[str, Metric], judged: bool) -> None:
    """Write the epoch down: results and weights; the best one of those that are judged with the tasks' curves."""
    options, log = setup.options, setup.log
    values = evaluate.figures(metrics) if metrics else {}
    row: dict[str, float] = {"epoch": run.epoch + 1, **epoch_losses(setup, run)}
    row |= {f"lr/{g}": v for g, v in current_rates(run).items()}
    name, sign = setup.headline
    row |= {key: value for key, value in values.items() if not evaluate.per_class(key, values)}
    run.history.append(row)
    best = judged and improved(run, sign * values[name] if name in values else run.epoch)
    losses = " ".join(f"{k.removeprefix('train/')} {v:.4f}" for k, v in row.items() if k.startswith("train/"))
    figures = " ".join(f"{k} {evaluate.number(values[k])}" for k in setup.shown if k in values)
    shown_figures = f" | {figures}{' (best)' if best else ''}" if figures else ""
    log(f"epoch {run.epoch + 1}/{options.epochs}: {losses}{shown_figures}")
    run.epoch, run.step, run.sums = run.epoch + 1, 0, {}
    if run.epoch == options.epochs:
        evaluate.say_remarks(metrics, log)
    if setup.accelerator.is_main_process:
        facts = setup.facts | {"epoch": run.epoch, "metrics": run_folder.finite(values)}
        weights = setup.folder / "weights"
        weights.mkdir(exist_ok=True)
        model_file.save(run.model, weights / "last.safetensors", **facts)
        if best:
            model_file.save(run.model, weights / "best.safetensors", **facts)
            if metrics:
                evaluate.draw_plots(run.model.named_tasks, metrics, setup.folder)
        run_folder.write_results(setup.folder, run.history)
        if setup.writer:
            for key, value in row.items():
                setup.writer.add_scalar(key, value, run.epoch)


def improved(run: Run, score: float) -> bool:
    """Whether an epoch is the best so far; until there is a score, the last one is (NaN: nothing to judge it by)."""
    unjudged = math.isinf(run.plateau.best)
    return run.plateau.update(-math.inf if math.isnan(score) else score) or unjudged


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
        f"train/{name.split('/', 1)[1] if prefix else name}": value
        for name, value in zip(names, totals.tolist())
    }


def current_rates(run: Run) -> dict[str, float]:
    """Learning rates as last used, of what was pretrained and of the heads, a new pyramid among them."""
    pretrained = run.model.pretrained_parameters()
    return {
        "backbone" if group["params"][0] in pretrained else "head": group["lr"]
        for group in run.optimizer.param_groups
    }


def finish(setup: Setup, run: Run) -> None:
    """Pictures of the whole run and a last line that says what to type next."""
    if not setup.accelerator.is_main_process:
        return
    name, sign = setup.headline
    run_folder.plot_results(setup.folder, run.history, setup.shown)
    with averaged(run):
        setup.draw_predictions(run.model)
    scored = [
        (sign * row[name], row["epoch"]) for row in run.history if name in row and not math.isnan(row[name])
    ]
    if out_of_patience(setup, run):
        setup.log(f"stopped: no progress in {setup.options.patience} validations (patience)")
    if scored:
        score, epoch = max(scored, key=lambda pair: (pair[0], -pair[1]))
        setup.log(f"best {name} {sign * score:.4f} at epoch {epoch}")
    setup.log(f"results in {setup.folder}")
    setup.log(f"next: retinue predict {setup.folder} YOUR_PICTURES")
    run_folder.write_json(setup.options.json, {"run": str(setup.folder), "epochs": run.history})


def run(settings: dict[str, Any]) -> int:
    """The command."""
    train(**settings)
    return 0


if __name__ == "__main__":  # torchrun -m retinue.tools.train
    sys.exit(main(["train", *sys.argv[1:]]))
