"""A published model that is made up on the spot."""

from typing import Any

import torch

import retinue.backbones
from retinue.datasets.targets import ClassMap
from retinue.tasks.task import Model
from retinue.tasks.toy.one_box import OneBox  # type: ignore[import-not-found]


def names() -> list[str]:
    """One."""
    return ["one_box_resnet18"]


def build(name: str, weights: str | None = None) -> tuple[Model, dict[str, Any]]:
    """Random weights by the name of the weights."""
    with torch.random.fork_rng():
        torch.manual_seed(len(weights or "best"))
        backbone = retinue.backbones.build("resnet18")
        task = OneBox(backbone, ClassMap(("sphere", "thing")))
    return Model(backbone, {"one_box": task}).eval(), {"imgsz": 48, "batch": 3}


def describe(name: str) -> dict[str, Any]:
    """Facts."""
    return {"score": 0.5, "metric": "box/off", "parameters": 1, "licence": "none", "source": "https://x"}
