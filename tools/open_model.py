"""A model by what people have at hand: a run's folder, a saved file, or a published backbone's name."""

from pathlib import Path
from typing import Any

import torch

import retinue.backbones
from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.task import Model
from retinue.tools.options import closest


def find_weights(name: str) -> Path | None:
    """The file of saved weights that a path means: itself, or a run's best; None where there is no such path."""
    path = Path(name)
    if path.is_dir():
        for candidate in (path / "weights/best.safetensors", path / "weights/last.safetensors"):
            if candidate.is_file():
                return candidate
        raise DataError(
            f"{path}: no weights/best.safetensors in it; is it a run's folder, and has an epoch ended?"
        )
    return path if path.is_file() else None


def open_model(
    name: str, weights: str | None, device: torch.device | str
) -> tuple[Model, dict[str, Any], Path | None]:
    """(model in evaluation mode, its header, its file or None).

    A backbone's name gives its ImageNet classifier with `weights` (default: the published ones). Raises DataError
    where the name is none of the three.
    """
    path = find_weights(name)
    if path:
        if weights:
            raise DataError(f"{path} holds its own weights; leave out weights={weights}")
        return *model_file.load(path, device), path
    if name not in retinue.backbones.names():
        near = closest(name, retinue.backbones.names())
        raise DataError(f"{name!r} is no run's folder, no saved model and no backbone{near}")
    backbone = retinue.backbones.build(name, weights or "imagenet")
    model = Model(backbone, {"classification": Classifier.published(backbone)}).to(device).eval()
    return model, model_file.header(model, imgsz=backbone.preprocessing.crop), None
