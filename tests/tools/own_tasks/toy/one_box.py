"""One box a picture: as small as a task on boxes can be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap, Pictures, Target, Transform
from retinue.datasets.transforms import Compose, HorizontalFlip, RandomResize, Resize
from retinue.tasks.task import Task, mean_over_ranks


@dataclass(frozen=True)
class Box:
    """A box in the file's pixels and its score."""

    box: np.ndarray
    score: float

    def __str__(self) -> str:
        return f"one box {self.score:.2f}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"box": self.box.tolist(), "score": self.score}

    def draw(self, picture: np.ndarray) -> np.ndarray:
        """Nothing is drawn."""
        return picture.copy()


class Distance:
    """Mean distance of a picture's box from its first true one; NaN without any."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self.keys: set[str] = set()

    def update(self, ids: Sequence[str], results: Sequence[Box], targets: Sequence[Target]) -> None:
        """Pictures without objects count for nothing."""
        for id, result, target in zip(ids, results, targets, strict=True):
            self.keys |= target.keys()
            assert id not in self.found
            if len(target["boxes"]):
                self.found[id] = float(np.abs(result.box - target["boxes"][0].numpy()).mean())

    def merge(self, other: Self) -> None:
        """The other's pictures too."""
        self.found |= other.found
        self.keys |= other.keys

    def compute(self) -> dict[str, float]:
        """Flat figures, one of them of a class, one of nothing."""
        values = [self.found[id] for id in sorted(self.found)]
        mean = float(np.mean(values)) if values else float("nan")
        return {"box/off": mean, "box/off/sphere": mean, "box/small": float("nan")}

    def notes(self) -> list[str]:
        """Why a figure is NaN, and what was read."""
        return ["box/small is n/a: no small box", f"read {sorted(self.keys)}"]


class OneBox(Task):
    """The first box of every picture, from the means of c3."""

    needs: ClassVar[frozenset[str]] = frozenset({"boxes", "box_labels"})
    uses: ClassVar[frozenset[str]] = frozenset({"area"})
    headline: ClassVar[str] = "box/off"
    smaller_is_better: ClassVar[bool] = True
    shown: ClassVar[tuple[str, ...]] = ("box/small",)
    groups_by_aspect: ClassVar[bool] = True

    def __init__(
        self, backbone: Backbone, classes: ClassMap, *, empty: bool = False, one_size: bool = False
    ) -> None:
        super().__init__()
        self.classes, self.levels = classes, ("c3",)
        self.settings = {"empty": empty, "one_size": one_size}
        backbone.prepare_for(replace(backbone.preprocessing, divisor=32))
        self.last = nn.Linear(backbone.levels["c3"].channels, 4)

    def forget_classes(self) -> None:
        """Nothing depends on them."""

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`box`, in shares of the canvas; 0 where no picture has one, or where they are to be forgotten (`empty`)."""
        codes = self.last(features["c3"].mean((2, 3)))
        assert all(set(t) == {"boxes", "box_labels", "area"} for t in targets)
        losses = [codes.sum() * 0]
        for code, target in zip(codes, targets):
            if len(target["boxes"]) and not self.settings["empty"]:
                losses.append((code - target["boxes"][0] / pictures.pixels.shape[-1]).abs().mean())
        return {"box": mean_over_ranks(torch.stack(losses).sum(), len(targets))}

    def predict(self, features: Features, pictures: Pictures) -> list[Box]:
        """In the file's pixels."""
        codes = self.last(features["c3"].mean((2, 3))).double() * pictures.pixels.shape[-1]
        corners = codes.cpu().numpy().reshape(-1, 2, 2)
        matrices = pictures.to_file.numpy()
        return [Box((c @ m[:, :2].T + m[:, 2]).ravel(), 0.5) for c, m in zip(corners, matrices)]

    def metric(self) -> Distance:
        """Fresh."""
        return Distance()

    def train_transform(self, side: int) -> Transform:
        """Several sizes, mirrored; or one."""
        if self.settings["one_size"]:
            return self.eval_transform(side)
        return Compose([RandomResize(side // 2, side, 2 * side), HorizontalFlip()])

    def eval_transform(self, side: int) -> Transform:
        """One size."""
        return Resize(side, 2 * side)

    def draw_batch(
        self, pictures: Pictures, targets: Sequence[Target], results: Sequence[Box] | None = None
    ) -> np.ndarray:
        """The first picture."""
        assert results is None or len(results) == len(targets) == len(pictures)
        return (pictures.pixels[0].permute(1, 2, 0) * 255).byte().numpy()
