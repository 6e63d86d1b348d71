"""A model by what people have at hand: a run's folder, a saved file, or a published model's name."""

from pathlib import Path
from typing import Any

import torch

from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tasks.find import find, names, published, settings_of
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


def answer_settings() -> dict[str, Any]:
    """All tasks' settings of the answer alone: name -> type."""
    return {name: settings_of(task)[name] for task in names() for name in find(task).answer_settings}


def open_model(
    name: str,
    weights: str | None,
    device: torch.device | str,
    settings: dict[str, Any] | None = None,
) -> tuple[Model, dict[str, Any], Path | None]:
    """(model in evaluation mode, its header, its file or None).

    A published model's name gives it with `weights` (default: its best); a backbone's name is its ImageNet
    classifier's. settings: of the answer, other than the model was saved with. Raises DataError where the name is none
    of the three, or the model has no such settings.
    """
    model, facts, path = _opened(name, weights, device)
    return model_file.answering(model, settings) if settings else model, facts, path


def _opened(
    name: str, weights: str | None, device: torch.device | str
) -> tuple[Model, dict[str, Any], Path | None]:
    path = find_weights(name)
    if path:
        if weights:
            raise DataError(f"{path} holds its own weights; leave out weights={weights}")
        return *model_file.load(path, device), path
    models = published()
    if name not in models:
        near = closest(name, models)
        raise DataError(f"{name!r} is no run's folder, no saved model and no published model{near}")
    model, facts = models[name].build(name, weights)
    return model.to(device).eval(), model_file.header(model, **facts), None
