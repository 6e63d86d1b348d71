"""Task and Model: one pass of the backbone, then every task on the same maps."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from retinue.backbones.backbone import NEW, TAKEN, Backbone, Features, is_norm
from retinue.datasets.targets import ClassMap, Pictures, Target, Transform


class Result(Protocol):
    """What a task says of one picture, in the file's own pixels and units: a small frozen dataclass.

    It may also have `files(picture) -> dict[str, bytes]`: what other programs read (label masks), by the ending of the
    file's name ("-labels.png"), of the picture (h, w, channels) as it was read. Prediction writes them beside the
    drawings of pictures.
    """

    def __str__(self) -> str:
        """One short line for people."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Plain values, with class names where there are classes."""
        ...

    def draw(self, picture: np.ndarray) -> np.ndarray:
        """The picture (h, w, 3) uint8 RGB, the result drawn on a copy of it; a legend may widen it at the right."""
        ...


class Metric(Protocol):
    """Collects results against truth, picture by picture, exactly; several processes merge theirs."""

    def update(self, ids: Sequence[str], results: Sequence[Any], targets: Sequence[Target]) -> None:
        """Take in a batch: results and targets in the file's frame. An id taken in twice raises ValueError."""
        ...

    def merge(self, other: Self) -> None:
        """Take in all that another process collected."""
        ...

    def compute(self) -> dict[str, float]:
        """Flat, stable names -> values, the headline first; `NAME/CLASS` is one class's share of the figure `NAME`.

        NaN where there is nothing to judge. A metric may also have `notes()` and `diagnose()`, lists of sentences that
        are said after the figures: why one is NaN, what is probably wrong where they are 0.
        """
        ...


class Task(nn.Module):
    """A head: it reads a backbone's maps and answers one question about the picture.

    A task is constructed as `TheTask(backbone, classes, **settings)`: it may take the backbone's classifier off
    (`Backbone.chop`) or its last stage (`Backbone.cut`). `settings` are keyword-only, plain values with defaults:
    they are the task's options on the command line and are saved with the model.

    A module that defines a Task is found by its path; nothing is registered. The path names one task, so a module
    defines one that is neither abstract nor named with a "_" (bases are one or the other); variants of one paper
    (FCN-32s, 16s, 8s) are a setting.
    """

    needs: ClassVar[frozenset[str]]
    """Target keys that training and evaluation cannot do without."""
    uses: ClassVar[frozenset[str]] = frozenset()
    """Target keys that are read too where the data have them (`crowd`, `area`)."""
    inputs: ClassVar[frozenset[str]] = frozenset()
    """What is read beside the picture, at prediction time too (`proposals`, `hole`)."""
    headline: ClassVar[str]
    """Name of the metric by which the best epoch is chosen; larger is better unless `smaller_is_better`."""
    smaller_is_better: ClassVar[bool] = False
    shown: ClassVar[tuple[str, ...]] = ()
    """Further metrics that training says after each epoch, where there are such."""
    groups_by_aspect: ClassVar[bool] = False
    """Whether training batches are made of pictures of similar aspect: for tasks whose pictures keep theirs."""
    default_side: ClassVar[int] = 224
    """`imgsz` unless asked otherwise."""
    last_epochs: int = 0
    """How many epochs at the end of training are late: `late_transform` makes their samples."""
    late: bool = False
    """Whether training is in its last epochs: it says so as they begin."""
    levels: tuple[str, ...]
    """The backbone's levels that this task reads."""
    classes: ClassMap | None
    settings: dict[str, Any]
    """What it was constructed with: enough, with backbone and classes, to construct it again."""
    resolved: ClassVar[frozenset[str]] = frozenset()
    """Settings that `resolve_settings` works out from the training data: other data, other values."""
    answer_settings: ClassVar[frozenset[str]] = frozenset()
    """Settings of the answer alone, on which no weight depends: evaluation and prediction may be given other ones."""

    @classmethod
    def target_keys(cls) -> frozenset[str]:
        """All target keys that are read where there are such."""
        return cls.needs | cls.uses

    @classmethod
    def recipe(cls, pretrained: bool) -> dict[str, Any]:
        """Options of training that suit this task better than the general defaults; none by default.

        pretrained: the backbone begins with weights.
        """
        return {}

    @classmethod
    def classes_of(cls, dataset: Any) -> ClassMap | None:
        """The classes of a data set that this task learns."""
        return dataset.classes

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """What this task, with these settings, would rather read than the plain backbone: a pyramid around it."""
        return backbone

    def attach(self, backbone: Backbone) -> None:
        """Called once by the `Model`: for tasks that run the backbone themselves, on regions or scales.

        Nothing by default. A task keeps it as `self.attached = (backbone,)`: in a tuple it is no part of the task's
        state, which would save it twice, and copies of the model still have their own.
        """

    def fuse(self, dtype: torch.dtype) -> None:
        """Make the layers ready for prediction, best by `retinue.backbones.fused.fuse`; by default only in `dtype`.

        Called once on a copy that will not learn. From then on `predict` is given maps of `dtype`, without autocast:
        layers that are not fused are brought to it, or bring the maps to their own type.
        """
        self.to(dtype)

    def forget_classes(self) -> None:
        """Begin anew with the layers that have an output a class: a saved model goes on with other classes."""
        if self.classes is not None:
            raise NotImplementedError(
                f"{type(self).__name__} does not say which layers depend on its classes"
            )

    def prepare(self, pictures: Pictures, targets: list[Target]) -> tuple[Pictures, list[Target]]:
        """What a task changes of a training batch before the backbone sees it (mixup); nothing by default.

        It gives new values and leaves those that it was given as they are. Randomness comes from torch's global
        generator, whose state is saved for resuming.
        """
        return pictures, targets

    FITTED: ClassVar[dict[str, dict[str, Any]]] = {}
    """The methods by which the last layers may be fitted to cached features -> default settings for that; by default
    the task is only descended."""
    fitted_side: ClassVar[int] = 256
    """`imgsz` of such a fit unless asked otherwise: as a rule, the size that the published weights' pictures had."""
    tuned_first: ClassVar[bool] = False
    """Whether a fit comes after `epochs` of descent."""

    def examples(self, features: Features, pictures: Pictures, targets: list[Target]) -> tuple[Tensor, ...]:
        """What `fit` reads of a batch of training pictures: tensors with a row an example (a picture, a region)."""
        raise NotImplementedError

    def fit(self, *examples: Any, **how: Any) -> None:
        """Fit the last layers to the `examples` of all training pictures, joined, as arrays.

        how: `method`, one of `FITTED`'s; `seed`; and `say`, a function that is told a line about each stage.
        """
        raise NotImplementedError

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """Named scalar losses of a batch; their sum is descended. Normalise with `mean_over_ranks`.

        All of the task's parameters take part in every batch, times 0 where there is nothing to learn from (no boxes):
        several processes wait for each other's gradients.
        """
        raise NotImplementedError

    def predict(self, features: Features, pictures: Pictures) -> list[Any]:
        """One `Result` a picture, in the file's own pixels and units."""
        raise NotImplementedError

    def metric(self) -> Metric:
        """A fresh, empty metric."""
        raise NotImplementedError

    def train_transform(self, side: int) -> Transform:
        """The task's recipe of augmentation for pictures of about `side` pixels."""
        raise NotImplementedError

    def late_transform(self, side: int) -> Transform:
        """The recipe of the `last_epochs`: as before, by default."""
        return self.train_transform(side)

    def eval_transform(self, side: int) -> Transform:
        """How a picture is brought to the network for evaluation and prediction; never random."""
        raise NotImplementedError

    @classmethod
    def resolve_settings(cls, settings: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """The settings with what depends on the training data worked out to plain values ("balanced" weights)."""
        return settings

    def draw_batch(
        self, pictures: Pictures, targets: Sequence[Target], results: Sequence[Any] | None = None
    ) -> np.ndarray:
        """A contact sheet (h, w, 3) uint8 RGB: the batch as the network sees it with its truth by class name.

        Without `results` it is a training batch: `targets` are those that the losses read, in the frame of the canvas.
        With them it is one of evaluation, drawn with what was predicted and whether it is right: results and targets
        are in the file's frame, from which the inverse of `pictures.to_file` leads to the canvas.
        """
        raise NotImplementedError

    def plots(self, metric: Any) -> dict[str, Callable[[str], None]]:
        """The task's own curves: file name -> a function that draws it to a path. None by default."""
        return {}


def _all_taken(module: nn.Module) -> bool:
    return all(hasattr(part, TAKEN) for part in module.modules())


class Model(nn.Module):
    """A backbone and the tasks that read its maps. One task is a dict of one.

    All gradient training goes through `forward`, so that distributed wrappers just work; `predict` answers.
    """

    def __init__(self, backbone: Backbone, tasks: dict[str, Task]) -> None:
        super().__init__()
        backbone.chop()
        self.backbone = backbone
        self.tasks = nn.ModuleDict(tasks)
        for task in tasks.values():
            task.attach(backbone)

    @property
    def named_tasks(self) -> dict[str, Task]:
        """The tasks by name, in order: `tasks`, typed."""
        return dict(self.tasks.items())  # type: ignore[arg-type]

    def freeze(self, through: str | None = "all", norm: bool | None = None) -> None:
        """`Backbone.freeze`, which what the tasks took over from the backbone follows.

        It lies above the trunk, and is frozen where all of the trunk is, new parts (an FPN's own) aside.
        `through="pretrained"` is all but the new parts.
        """
        stages = self.backbone.pretrained_stages()
        if through == "pretrained":
            through = stages[-1] if stages else None
        self.backbone.freeze(through, norm)
        for module in self._taken():
            module.requires_grad_(True)
        for module in self._frozen():
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _taken(self) -> list[nn.Module]:
        """The smallest modules that the tasks took over, so that what they replaced since is not among them."""
        return [m for m in self.tasks.modules() if hasattr(m, TAKEN) and _all_taken(m)]

    def _frozen(self) -> list[nn.Module]:
        everything = set(self.backbone.frozen_stages) >= set(self.backbone.pretrained_stages())
        return [m for m in self._taken() if everything or (self.backbone.frozen_norm and is_norm(m))]

    def pretrained_parameters(self) -> set[nn.Parameter]:
        """The backbone's, with what the tasks took over from it, without its new parts."""
        own = [m for m in self.backbone.modules() if not hasattr(m, NEW)]
        return {p for module in (*own, *self._taken()) for p in module.parameters(recurse=False)}

    def freeze_unread(self) -> None:
        """Freeze the backbone's parameters that none of the tasks' levels depends on (c5 under a head on c4).

        They would never get a gradient, for which several processes wait. A task that runs the backbone itself
        (`attach`) may read any: then nothing is frozen.
        """
        if any(type(task).attach is not Task.attach for task in self.named_tasks.values()):
            return
        parameters = dict(self.backbone.named_parameters())
        meta = {name: torch.empty_like(p, device="meta").requires_grad_() for name, p in parameters.items()}
        buffers = {name: torch.empty_like(b, device="meta") for name, b in self.backbone.named_buffers()}
        side = max(64, self.backbone.preprocessing.crop)
        images = torch.empty(1, self.backbone.in_channels, side, side, device="meta")
        wanted = {level for task in self.named_tasks.values() for level in task.levels}
        training = self.backbone.training
        self.backbone.eval()
        with torch.enable_grad():
            maps = torch.func.functional_call(self.backbone, {**meta, **buffers}, (images, wanted))
        self.backbone.train(training)
        outputs = [value.sum() for value in maps.values() if value.requires_grad]
        if outputs and meta:
            read = torch.autograd.grad(outputs, list(meta.values()), allow_unused=True)
            for parameter, gradient in zip(parameters.values(), read):
                if gradient is None:
                    parameter.requires_grad_(False)

    def _features(self, pictures: Pictures, names: Collection[str]) -> Features:
        wanted = {level for name in names for level in self.named_tasks[name].levels}
        return self.backbone(pictures.pixels, wanted)

    def _prepare(
        self, names: Collection[str], pictures: Pictures, targets: list[Target]
    ) -> tuple[Pictures, list[Target]]:
        """The tasks' own changes of a training batch, in order; ValueError if one would spoil another's pictures."""
        for name in names:
            before = pictures
            pictures, targets = self.named_tasks[name].prepare(pictures, targets)
            if pictures is not before and len(names) > 1:
                others = [other for other in names if other != name]
                raise ValueError(
                    f"task {name!r} changes the pictures that {others} learn from too: "
                    f"train it alone, or switch its mixing off (mixup=0)"
                )
        return pictures, targets

    def forward(self, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """Losses named `task/loss` of those tasks whose targets are all present."""
        present = set.intersection(*(set(t) for t in targets)) if targets else set()
        names = [name for name, task in self.named_tasks.items() if task.needs <= present]
        if not names:
            needs = {name: sorted(task.needs) for name, task in self.named_tasks.items()}
            raise ValueError(f"the targets {sorted(present)} suit no task; needed are {needs}")
        if self.training:
            pictures, targets = self._prepare(names, pictures, targets)
        features = self._features(pictures, names)
        return {
            f"{name}/{loss}": value
            for name in names
            for loss, value in self.named_tasks[name].losses(features, pictures, targets).items()
        }

    @torch.no_grad()
    def predict(self, pictures: Pictures) -> dict[str, list[Any]]:
        """Every task's results, one a picture, from one pass. The caller puts the model in evaluation mode."""
        features = self._features(pictures, list(self.named_tasks))
        return {name: task.predict(features, pictures) for name, task in self.named_tasks.items()}


def mean_over_ranks(total: Tensor, count: Tensor | float, least: float = 1e-12) -> Tensor:
    """`total` / `count`, with the count summed over all processes, times the number of processes.

    Distributed training averages the gradients of its processes; with this normaliser that average is the
    gradient of the mean over all processes' elements, however unevenly they are shared. A count below `least` is taken
    for `least`: 1 where the total has more terms than are counted (background beside objects), else a count of 0 gives
    0.
    """
    count = torch.as_tensor(count, dtype=torch.float32, device=total.device)
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        ranks = dist.get_world_size()
        count = count.clone()
        dist.all_reduce(count)
    return total * ranks / count.clamp(min=least)
