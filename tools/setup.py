"""From options to everything that a training run stands on: device, data, model, loaders, and the run's folder."""

import contextlib
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from retinue.datasets.targets import DataError, Transform
from retinue.datasets.transforms import Compose, load_albumentations
from retinue.tasks import model_file
from retinue.tasks.task import Model, Task
from retinue.tools import run_folder, state
from retinue.tools.devices import resolve_device, resolve_precision
from retinue.tools.evaluate import eval_loader
from retinue.tools.inference import ONE_PASS
from retinue.tools.loader import Loader, View, epoch_batches, workers_for
from retinue.tools.new_model import begin, build_model, rebuild_model
from retinue.tools.options import Train, UsageError, as_dict
from retinue.tools.processes import found_by_first
from retinue.tools.progress import Log
from retinue.tools.reading import with_channels
from retinue.tools.run_data import check_fit, open_data
from retinue.tools.run_options import resolve_options


@dataclass
class Setup:
    """What a run stands on and what does not change while it goes on."""

    options: Train
    task_settings: dict[str, Any]
    accelerator: Accelerator
    device: torch.device
    precision: str
    log: Log
    splits: dict[str, Any]
    model: Model
    side: int
    sizes: np.ndarray | None = None
    """(height, width) of the training pictures' files, (pictures, 2), as far as they are known."""
    learning_rates: tuple[float, float] = (0.0, 0.0)
    folder: Path = Path()
    train_loader: Loader = field(init=False)
    val_loader: Loader | None = field(default=None, init=False)
    saved: dict[str, Any] | None = None
    """The state that a resumed run goes on from."""
    writer: Any = None
    draws: bool = True
    """Whether pictures of the run are drawn on the way."""

    @property
    def train_set(self) -> Any:
        """The training pictures."""
        return self.splits["train"]

    @property
    def val_set(self) -> Any | None:
        """The validation pictures: `val`, or `test` where there is no `val`."""
        return self.splits.get("val", self.splits.get("test"))

    @property
    def task(self) -> Task:
        """The first task: its headline chooses the best epoch."""
        return next(iter(self.model.named_tasks.values()))

    @property
    def fits(self) -> bool:
        """Whether the task's last layers are fitted, at the end, to features of all training pictures."""
        return self.options.method != "descend"

    @property
    def descends(self) -> bool:
        """Whether there are epochs of gradient descent."""
        return not self.fits or (self.task.tuned_first and self.options.tune != "none")

    @property
    def validates(self) -> bool:
        """Whether epochs are validated; before a fit they are not: it decides."""
        return self.val_set is not None and not self.fits

    @property
    def headline(self) -> tuple[str, int]:
        """(name of the metric that chooses the best epoch, 1 or -1 for larger or smaller is better)."""
        return self.shown[0], -1 if self.task.smaller_is_better else 1

    @property
    def shown(self) -> list[str]:
        """The metrics that are said after each epoch: every task's headline and what it shows beside it."""
        several = len(self.model.tasks) > 1
        return [
            f"{name}/{metric}" if several else metric
            for name, task in self.model.named_tasks.items()
            for metric in (task.headline, *task.shown)
        ]

    @property
    def rank(self) -> int:
        """This process's number."""
        return self.accelerator.process_index

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return self.accelerator.num_processes

    def epoch_batches(self, epoch: int) -> list[np.ndarray]:
        """The training batches of an epoch, over all processes, as arrays of indices."""
        options = self.options
        sizes = self.sizes if any(task.groups_by_aspect for task in self.model.named_tasks.values()) else None
        return epoch_batches(len(self.train_set), options.batch, options.seed, epoch, self.ranks, sizes)

    @property
    def facts(self) -> dict[str, Any]:
        """What a saved model's header says beside its construction."""
        return {
            "imgsz": self.side,
            "batch": self.options.batch,
            "precision": self.precision,
            "data": self.options.data,
            "versions": {name: metadata.version(name) for name in ("torch", "torchvision")},
        }

    def built(self) -> dict[str, Any]:
        """What constructs the model again, as plain values: a resumed run needs no weights but its state's."""
        return model_file.header(self.model)

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a resumed run to learn the same: classes, pictures and their order.

        Worked out once: every saved state carries it.
        """
        dataset, digest = self.train_set, sha256()
        for i in range(len(dataset) if hasattr(dataset, "id") else 0):
            digest.update(dataset.id(i).encode() + b"\0")
        classes = self.task.classes_of(dataset)
        return {
            "pictures": len(dataset),
            "ids": digest.hexdigest(),
            "classes": classes.to_json() if classes else None,
            "processes": self.ranks,
        }

    def synchronising(self, wrapped: torch.nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Several processes exchange gradients only with the last piece of a batch."""
        return contextlib.nullcontext() if last else self.accelerator.no_sync(wrapped)

    def write_image(self, name: str, image: np.ndarray) -> None:
        """A picture (h, w, 3) uint8 RGB into the run's folder."""
        encoded = cv2.imencode(Path(name).suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        model_file.write_atomically(self.folder / name, lambda file: file.write(encoded.tobytes()))

    def draw_predictions(self, model: Model, count: int = 16) -> None:
        """`val_predictions.jpg`: samples of the validation split with what the model says of them."""
        if self.val_set is None or self.val_loader is None:
            return
        chosen = np.linspace(0, len(self.val_set) - 1, min(count, len(self.val_set))).round().astype(int)
        model.eval()
        for pictures, targets in self.val_loader.batches([[(0, int(i)) for i in chosen]]):
            results: dict[str, list[Any]] = {name: [] for name in model.named_tasks}
            for start in range(0, len(pictures), self.options.batch):
                part = pictures[slice(start, start + self.options.batch)]
                for name, values in ONE_PASS.batch(model, part).items():
                    results[name] += values
            for name, task in model.named_tasks.items():
                image = task.draw_batch(pictures, targets, results[name])
                self.write_image(f"val_predictions{'' if len(results) == 1 else '-' + name}.jpg", image)

    def close(self) -> None:
        """Close the log and the TensorBoard writer."""
        if self.writer:
            self.writer.close()
        self.log.close()


def prepare(settings: dict[str, Any]) -> Setup:
    """Everything up to the first step. Raises UsageError and DataError for what does not fit, before any folder."""
    options, task_settings = resolve_options(settings)
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    # The precision is ours to set, by `autocast`: an Accelerator's could not change within a process.
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # Accelerate asks for "cuda" alone
    accelerator = Accelerator(mixed_precision="no", cpu=device.type == "cpu")
    if accelerator.device.type != device.type:
        raise UsageError(f"device={device}: this process has begun on {accelerator.device}; start another")
    device = accelerator.device if device.type != "cpu" else device
    log = Log(sys.stderr if options.json == "-" else None, quiet=not accelerator.is_main_process)
    seed_everything(options)
    saved = state.read(Path(options.resume) / "state") if options.resume else None
    begun = begin(options) if saved is None else None
    splits, side, sizes = found_by_first(lambda: open_data(options, log, begun[1] if begun else {}))
    options.imgsz = side
    if saved is not None and not (isinstance(saved, dict) and {"model", "built", "data"} <= saved.keys()):
        raise DataError(
            f"{options.resume}/state/state.pt does not fit this run: no state of ours; start a new run with model="
        )
    if saved is None:
        model = build_model(options, task_settings, splits, log, begun)
    else:
        model = rebuild_model(options, saved)
    splits = {name: with_channels(split, model.backbone.in_channels) for name, split in splits.items()}
    check_fit(model, splits, side, sizes, options, accelerator.num_processes)
    setup = Setup(
        options, task_settings, accelerator, device, precision, log, splits, model, side, sizes, saved=saved
    )
    if saved is not None:
        check_same_data(setup, saved["data"])
    open_loaders(setup)
    return setup


def check_same_data(setup: Setup, before: dict[str, Any]) -> None:
    """DataError, with the difference, where the data are not those that the run was learning from."""
    for key, value in setup.fingerprint.items():
        if before.get(key) != value:
            what = {"ids": "other pictures or another order", "processes": f"{value} processes"}.get(
                key, value
            )
            raise DataError(
                f"resume continues exactly, but its data have changed: {key} were {before.get(key)}, now {what}; "
                f"restore them, or start a new run with model={setup.options.resume}"
            )


def seed_everything(options: Train) -> None:
    """The same weights and dropout masks in every run of the same seed (order and augmentation have their own)."""
    random.seed(options.seed)
    np.random.seed(options.seed % 2**32)
    torch.manual_seed(options.seed)
    if options.deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def open_loaders(setup: Setup) -> None:
    """Training and validation batches, through the task's own transforms."""
    options, task, preparation = setup.options, setup.task, setup.model.backbone.preprocessing
    workers = workers_for(options.workers)
    recipes: list[Transform] = [task.train_transform(setup.side), task.late_transform(setup.side)]
    if options.augment:
        recipes = [Compose([recipe, load_albumentations(options.augment)]) for recipe in recipes]
    late = (options.epochs - task.last_epochs, recipes[1])
    view = View(setup.train_set, recipes[0], task.target_keys(), options.seed, inputs=task.inputs, late=late)
    pin = setup.device.type == "cuda"
    setup.train_loader = Loader(view, workers, preparation.pad, preparation.divisor, pin)
    if setup.val_set is not None:
        loader_workers = min(workers, 2) if setup.device.type == "cpu" else workers
        setup.val_loader = eval_loader(
            task, setup.val_set, setup.side, loader_workers, preparation.pad, preparation.divisor
        )


def resolve_rates(setup: Setup, find_lr: Callable[[Setup], float]) -> None:
    """Settle the head's and the backbone's learning rate; lr=find measures the first with `find_lr`."""
    options = setup.options
    if options.lr == "find":
        options.lr = f"{find_lr(setup):.3g}"
        seed_everything(options)  # as if it had been given: a resumed run does not search again
    try:
        lr = float(options.lr)
        if not 0 <= lr < math.inf:
            raise ValueError
    except ValueError:
        raise UsageError(f"lr={options.lr}: a number from 0 on, or find") from None
    if options.backbone_lr is None:
        options.backbone_lr = lr / 10 if options.weights or options.model else lr
    setup.learning_rates = lr, options.backbone_lr


def open_folder(setup: Setup) -> None:
    """The run's folder, made by the main process; all processes know its name."""
    options = setup.options
    if options.resume:
        setup.folder = Path(options.resume)
    else:
        chosen = [None]
        if setup.accelerator.is_main_process:
            args = as_dict(options) | setup.task_settings
            parent = Path(options.project) / options.task.rpartition(".")[2]
            name = options.name or options.backbone.replace("/", "-")
            chosen = [run_folder.new_folder(parent, name, args, options.exist_ok)]  # type: ignore[list-item]
        setup.folder = broadcast_object_list(chosen)[0] if dist.is_initialized() else chosen[0]  # type: ignore[assignment]
    if setup.accelerator.is_main_process:
        setup.log.open(setup.folder / "train.log")
        run_folder.write_text(setup.folder / "env.txt", run_folder.environment())
        setup.writer = tensorboard(setup) if options.tensorboard else None
        setup.log(
            f"{options.task} -> {setup.folder} ({setup.device}, {setup.precision}, {setup.ranks} process"
            f"{'es' if setup.ranks > 1 else ''}, lr {setup.learning_rates[0]:g})"
        )


def tensorboard(setup: Setup) -> Any:
    """A writer into the run's folder; UsageError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("tensorboard=true needs it installed: pip install retinue[tensorboard]") from None
    return SummaryWriter(str(setup.folder / "tensorboard"))
