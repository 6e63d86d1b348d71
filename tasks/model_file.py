"""A saved model: one safetensors file whose JSON header carries everything that `predict` needs. Nothing is pickled."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

import retinue.backbones
from retinue.backbones.backbone import Backbone, Origin, Preprocessing
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.find import find, name_of
from retinue.tasks.task import Model

FORMAT = 1


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all: a temporary file beside it, fsync, rename, fsync of the folder.

    A full disk or a kill at any moment leaves what stood there before. `write` is given the open file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def header(model: Model, **facts: Any) -> dict[str, Any]:
    """What it takes to construct the model again, as plain values, and further `facts` about it."""
    backbone = model.backbone
    return {
        "format": FORMAT,
        "backbone": {
            "architecture": backbone.architecture,
            "options": backbone.options,
            "preprocessing": dataclasses.asdict(backbone.preprocessing),
            "weights": dataclasses.asdict(backbone.weights) if backbone.weights else None,
            "new_top": backbone.new_top,
        },
        "tasks": {
            name: {
                "module": name_of(type(task)),
                "settings": task.settings,
                "classes": task.classes.to_json() if task.classes else None,
            }
            for name, task in model.named_tasks.items()
        },
        **facts,
    }


def save(model: Model, path: Path, **facts: Any) -> None:
    """Write a model, atomically. `facts` join the header."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"retinue": json.dumps(header(model, **facts))}
    data = safetensors.torch.save(plain, metadata)
    write_atomically(Path(path), lambda file: file.write(data))


def read_header(path: Path) -> dict[str, Any]:
    """The header of a saved model. DataError where the file is missing, damaged or not one of ours."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        value = json.loads(metadata["retinue"])
    except KeyError:
        raise DataError(f"{path}: holds tensors, but was not saved by retinue; give it as weights=") from None
    except (safetensors.SafetensorError, ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path}: not a whole safetensors file ({error}); save or copy it again") from None
    if not isinstance(value, dict) or not isinstance(value.get("format"), int):
        raise DataError(f"{path}: its header does not say which format it has; save it again with retinue")
    if value["format"] > FORMAT:
        raise DataError(f"{path}: written by a newer retinue (format {value['format']}); update this one")
    if not _is_complete(value) or _largest(value["backbone"]["options"]) > path.stat().st_size:
        raise DataError(
            f"{path}: its header does not say how the model was built; save it again with retinue"
        )
    value.setdefault("imgsz", value["backbone"]["preprocessing"].get("crop"))
    for fact in ("imgsz", "batch"):
        if not isinstance(value.get(fact, 1), int) or value.get(fact, 1) < 1:
            raise DataError(f"{path}: its header says {fact}={value[fact]}; save it again with retinue")
    return value


def _is_complete(value: dict[str, Any]) -> bool:
    """Whether a header has what `construct` and `predict` read, of the right types."""
    backbone, tasks = value.get("backbone"), value.get("tasks")
    if not isinstance(backbone, dict) or not isinstance(tasks, dict) or not tasks:
        return False
    return (
        isinstance(backbone.get("architecture"), str)
        and isinstance(backbone.get("options"), dict)
        and isinstance(backbone.get("preprocessing"), dict)
        and _is_origin(backbone.get("weights"))
        and all(isinstance(task, dict) and isinstance(task.get("module"), str) for task in tasks.values())
        and all(isinstance(task.get("settings"), dict) for task in tasks.values())
        and all(_is_class_map(task.get("classes", 0)) for task in tasks.values())
    )


def _is_origin(value: Any) -> bool:
    if value is None:
        return True
    texts = isinstance(value, dict) and {"source", "licence"} <= value.keys() <= {"source", "licence", "top1"}
    return (
        texts
        and all(isinstance(value[name], str) for name in ("source", "licence"))
        and isinstance(value.get("top1"), (int, float, type(None)))
    )


def _is_class_map(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and {"names", "ids"} <= value.keys())


def _largest(value: Any) -> float:
    """The largest number in plain values: more channels than the file has bytes would only fill the memory."""
    if isinstance(value, dict):
        return max(map(_largest, value.values()), default=0)
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return value if isinstance(value, (int, float)) else 0


def construct_backbone(described: dict[str, Any]) -> Backbone:
    """The backbone that a header describes, with its preprocessing and origin, its weights at random."""
    # None stands in the way of a header that names weights to fetch.
    backbone = retinue.backbones.build(described["architecture"], None, **described["options"])
    kept: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in described["preprocessing"].items()
    }
    backbone.prepare_for(Preprocessing(**kept))
    backbone.weights = Origin(**described["weights"]) if described.get("weights") else None
    for part in (backbone, getattr(backbone, "body", None)):
        if isinstance(part, Backbone):
            part.new_top = bool(described.get("new_top"))
    return backbone


def construct(value: dict[str, Any]) -> Model:
    """The model that a header describes, its weights at random."""
    backbone = construct_backbone(value["backbone"])
    tasks = {}
    for name, task in value["tasks"].items():
        classes = ClassMap.from_json(task["classes"]) if task["classes"] else None
        tasks[name] = find(task["module"])(backbone, classes, **task["settings"])
    return Model(backbone, tasks)


def answering(model: Model, settings: dict[str, Any]) -> Model:
    """The same weights under other settings of the answer (`Task.answer_settings`), in evaluation mode.

    Raises DataError for settings that no task of the model has, and for values out of range.
    """
    value, tasks = header(model), model.named_tasks
    for name, task in tasks.items():
        own = {key: settings[key] for key in settings.keys() & task.answer_settings}
        value["tasks"][name]["settings"] = task.settings | own
    known = frozenset[str]().union(*(task.answer_settings for task in tasks.values()))
    if unknown := sorted(settings.keys() - known):
        there = f"those of its answer are {', '.join(sorted(known))}" if known else "its answer has none"
        raise DataError(f"{', '.join(unknown)}: no settings of {', '.join(tasks)}; {there}")
    other = construct(value)
    other.load_state_dict(model.state_dict())
    return other.to(next(model.parameters()).device).eval()


def load(path: Path, device: torch.device | str = "cpu") -> tuple[Model, dict[str, Any]]:
    """A saved model in evaluation mode, and its header. DataError where the file is not whole or not ours."""
    value = read_header(path)
    try:
        model = construct(value)
        tensors = safetensors.torch.load_file(str(path))
        model.load_state_dict(tensors)
    except Exception as error:  # a damaged or hostile header may fail in any way
        raise DataError(f"{path}: no model can be made of it: {error}; save it again with retinue") from error
    return model.to(device).eval(), value
