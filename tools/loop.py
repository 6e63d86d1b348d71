"""An epoch of training, from wherever it stopped."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from hashlib import sha256

import torch
import torch.distributed as dist

from retinue.datasets.targets import Pictures, Target
from retinue.tools import state
from retinue.tools.loader import share
from retinue.tools.progress import counting
from retinue.tools.setup import Setup
from retinue.tools.step import TrainingStopped, descend
from retinue.tools.training_run import Run, set_rates


def train_epoch(setup: Setup, run: Run, batches: int) -> None:
    """The rest of an epoch: from `run.step` on. Leaves the state at the next epoch's beginning."""
    options, rank, ranks = setup.options, setup.rank, setup.ranks
    order = setup.epoch_batches(run.epoch)
    keys = [[(run.epoch, int(i)) for i in share(b, rank, ranks)] for b in order]
    run.model.train()
    for task in run.model.named_tasks.values():
        task.late = run.epoch >= options.epochs - task.last_epochs
    saved_at = time.monotonic()
    with (
        counting(f"epoch {run.epoch + 1}/{options.epochs}", setup.log, batches) as progress,
        asked_to_stop(alone=ranks == 1) as asked,
    ):
        progress(run.step)
        for pictures, targets in setup.train_loader.batches(keys[run.step :]):
            set_rates(setup, run, run.epoch * batches + run.step, batches)
            if run.epoch == run.step == 0 and setup.draws:
                draw_first_batch(setup, pictures, targets)
            seed_step(options.seed, run.epoch, run.step, rank)
            losses = descend(setup, run, pictures, targets, len(order[run.step]))
            for name, value in losses.items():
                run.sums[name] = run.sums.get(name, 0.0) + value * len(order[run.step])
            if run.ema:
                run.ema.update(run.model)
            run.step += 1
            progress(1, f"loss {sum(losses.values()):.3f}")
            if asked:
                save_state(setup, run)
                raise TrainingStopped(
                    f"stopped as asked, after a whole step; go on with resume={setup.folder}"
                )
            if time.monotonic() - saved_at > 60 * options.save_minutes and run.step < batches:
                save_state(setup, run)
                saved_at = time.monotonic()
    if ranks > 1:
        share_buffers(run)


@contextlib.contextmanager
def asked_to_stop(alone: bool) -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop (Ctrl-C, SIGTERM), for a step to end whole and be saved.

    The second Ctrl-C interrupts at once. Only the main thread can be asked, and only of a process that trains alone:
    of several, none may stop by itself, and whoever launched them expects a signal to end them.
    """
    asked: list[int] = []
    if not alone or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Make what a step draws (dropout, mixup) a function of these four: nothing of it needs saving for a resume."""
    digest = sha256(f"{seed}/{epoch}/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little"))


def share_buffers(run: Run) -> None:
    """Give every process the first one's batch norm statistics: those that are evaluated, saved and averaged."""
    for tensor in [*run.model.buffers(), *(run.ema.average.values() if run.ema else ())]:
        dist.broadcast(tensor, 0)


def save_state(setup: Setup, run: Run) -> None:
    """Write what resume needs: by the main process, with the own weights, not the averaged ones."""
    if setup.accelerator.is_main_process:
        state.write(
            setup.folder / "state", {**run.state(), "built": setup.built(), "data": setup.fingerprint}
        )


def draw_first_batch(setup: Setup, pictures: Pictures, targets: list[Target]) -> None:
    """What the network is given, drawn with class names: where a wrong label or a wrong box shows first."""
    if setup.accelerator.is_main_process:
        for name, task in setup.model.named_tasks.items():
            image = task.draw_batch(pictures, targets)
            setup.write_image(f"first_batch{'' if len(setup.model.tasks) == 1 else '-' + name}.jpg", image)
