"""A model ready to predict: pictures as arrays in, results out."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from retinue.backbones.fused import FusedBackbone
from retinue.datasets.targets import DataError, Sample, collate
from retinue.tasks.fused import fused_model
from retinue.tasks.segmentation.sliding_window import with_heat_maps
from retinue.tasks.task import Model, Task
from retinue.tools.devices import autocast, resolve_device, resolve_precision
from retinue.tools.inference import ONE_PASS, Inference
from retinue.tools.open_model import open_model


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A picture's path and, by task, what was predicted of it (a `Result`): `path, results = predicted`.

    Of a video's frame also its number in the file, from 0, and its time in seconds from the beginning.
    """

    path: Path
    results: dict[str, Any]
    frame: int | None = None
    time: float | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.path, self.results))


@dataclasses.dataclass
class Predictor:
    """A model ready to predict: built once, asked for many pictures."""

    model: Model
    side: int
    device: torch.device
    precision: str
    inference: Inference = ONE_PASS
    """One pass, several views, or tiles."""

    @classmethod
    def open(
        cls,
        name: str,
        weights: str | None = None,
        device: str | None = None,
        precision: str = "auto",
        heatmap: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> "Predictor":
        """From a run's folder, a saved file, or a backbone's name; DataError where it is none of these.

        heatmap: of a classifier, the class whose `HeatMap` is predicted instead (`with_heat_maps`). settings: of the
        answer, other than the model was saved with.
        """
        where = resolve_device(device)
        model, header, _ = open_model(name, weights, where, settings)
        if heatmap is not None:
            model = with_heat_maps(model, heatmap, header["imgsz"]).eval()
        asked = header.get("precision", "auto") if precision == "auto" else precision
        resolved = resolve_precision(asked, where)
        if where.type == "cpu":
            model = fused_model(model, torch.bfloat16 if resolved == "bf16" else torch.float32)
        else:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, header["imgsz"], where, resolved)

    @property
    def task(self) -> Task:
        """The first task: its evaluation transform brings the pictures to the network."""
        return next(iter(self.model.named_tasks.values()))

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """No gradients, and the precision that was asked for."""
        fused = isinstance(self.model.backbone, FusedBackbone)  # it has its precision built in
        with torch.inference_mode(), autocast("fp32" if fused else self.precision, self.device):
            yield

    def __call__(
        self,
        pictures: Sequence[np.ndarray],
        ids: Sequence[str] | None = None,
        inputs: Sequence[Mapping[str, np.ndarray]] | None = None,
    ) -> list[dict[str, Any]]:
        """Results by task, one dict a picture (h, w, channels) uint8 or uint16 RGB, in that picture's own pixels.

        inputs: what the tasks are given beside each picture, in its own pixels (`proposals` (n, 4) float32).
        Raises DataError for an array that is no such picture.
        """
        if not len(pictures):
            return []
        names = ids or [str(i) for i in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            check_array(name, picture, self.model.backbone.in_channels)
        given = inputs if inputs is not None else [{}] * len(names)
        samples = [
            Sample(name, picture, inputs=dict(beside))
            for name, picture, beside in zip(names, pictures, given, strict=True)
        ]
        if self.inference.tile:
            with self.computing():
                return [self.inference.tiled(self.model, sample) for sample in samples]
        transform, rng = self.task.eval_transform(self.side), np.random.default_rng(0)
        samples = [transform(sample, rng, None) for sample in samples]
        preparation = self.model.backbone.preprocessing
        batch, _ = collate(samples, preparation.pad, preparation.divisor)
        with self.computing():
            results = self.inference.batch(self.model, batch)
        return [{task: values[i] for task, values in results.items()} for i in range(len(samples))]


def check_array(name: str, picture: np.ndarray, channels: int) -> None:
    """DataError where an array is not a picture (h, w, channels) uint8 or uint16."""
    if picture.ndim != 3 or picture.shape[2] != channels or not picture.size:
        raise DataError(f"picture {name}: shape {picture.shape}; give (height, width, {channels}), RGB")
    if picture.dtype not in (np.uint8, np.uint16):
        raise DataError(f"picture {name}: {picture.dtype}; give uint8 in 0..255 or uint16 in 0..65535")
