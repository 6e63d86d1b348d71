"""How a model is asked: in one pass, or, where all of its tasks are dense, from several views or tile by tile."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from retinue.datasets.targets import DataError, Pictures, Sample
from retinue.tasks.augmented import dense_tasks, predict_augmented
from retinue.tasks.dense_task import DenseTask
from retinue.tasks.task import Model
from retinue.tasks.tiling import coarsest_stride, predict_tiled, spans
from retinue.tools.options import Eval, Predict


@dataclass(frozen=True)
class Inference:
    """`flip`, `scales`, `tile` and `overlap` as `options.Predict` explains them; by default one pass."""

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    tile: int | None = None
    overlap: int = 0

    @classmethod
    def of(cls, options: Predict | Eval, model: Model) -> "Inference":
        """What was asked for. Raises DataError where it is out of range or the model has a task that is not dense."""
        overlap = (options.tile or 0) // 4 if options.overlap is None else options.overlap
        asked = cls(options.flip, tuple(options.scales), options.tile, overlap)
        if not asked.scales or not all(math.isfinite(scale) and 0 < scale <= 8 for scale in asked.scales):
            raise DataError(f"scales={','.join(map(str, asked.scales))}: numbers above 0, at most 8")
        if words := str(asked):
            dense_tasks(model, words, resized=asked.tile is not None or asked.scales != (1,))
        if asked.tile:  # an overlap that is too large is said before any picture is read
            spans(2**20, asked.tile, asked.overlap, coarsest_stride(model))
        return asked

    def __str__(self) -> str:
        """As it is written on the command line; empty for one pass."""
        words = [f"tile={self.tile} overlap={self.overlap}"] if self.tile else []
        words += ["flip=true"] if self.flip else []
        words += [f"scales={','.join(f'{scale:g}' for scale in self.scales)}"] if self.scales != (1,) else []
        return " ".join(words)

    def batch(self, model: Model, pictures: Pictures | Sample) -> dict[str, list[Any]]:
        """Every task's results of a batch; where tiles are asked for, of a sample as its file has it.

        Dense tasks may look at the whole canvas, so pictures of several sizes get each its own: no neighbour in the
        batch changes an answer.
        """
        if isinstance(pictures, Sample):
            return {name: [result] for name, result in self.tiled(model, pictures).items()}
        assert not self.tile
        dense = all(isinstance(task, DenseTask) for task in model.named_tasks.values())
        parts = own_canvases(pictures, model.backbone.preprocessing.divisor) if dense else [pictures]
        answers = [self._whole(model, part) for part in parts]
        return {name: [result for answer in answers for result in answer[name]] for name in model.named_tasks}

    def _whole(self, model: Model, pictures: Pictures) -> dict[str, list[Any]]:
        pictures = pictures.to(model.backbone.mean.device, torch.channels_last)
        if str(self):
            return predict_augmented(model, pictures, self.flip, self.scales)
        return model.predict(pictures)

    def tiled(self, model: Model, sample: Sample) -> dict[str, Any]:
        """Every task's result of a picture in its own pixels, tile by tile."""
        assert self.tile
        return predict_tiled(model, sample, self.tile, self.overlap, self.flip, self.scales)


def own_canvases(pictures: Pictures, divisor: int) -> list[Pictures]:
    """The batch, where all of its pictures are of one size; else each by itself, on the canvas that it has alone."""
    if len(set(pictures.sizes)) == 1:
        return [pictures]
    parts = []
    for i, size in enumerate(pictures.sizes):
        height, width = (-(-side // divisor) * divisor for side in size)
        part = pictures[i : i + 1]
        parts.append(replace(part, pixels=part.pixels[..., :height, :width].contiguous()))
    return parts


ONE_PASS = Inference()
