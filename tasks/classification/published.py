"""Published classifiers: every backbone with the classifier that its ImageNet weights came with."""

from typing import Any

import retinue.backbones
from retinue.backbones.weights import published
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.task import Model


def names() -> list[str]:
    """The backbones' names: a backbone's name is its classifier's too."""
    return retinue.backbones.names()


def build(name: str, weights: str | None = None) -> tuple[Model, dict[str, Any]]:
    """The classifier in evaluation mode, and its `imgsz`. weights: as `backbones.build` takes them.

    Raises DataError for weights without a classifier, WeightsError for unknown ones.
    """
    backbone = retinue.backbones.build(name, weights or "imagenet")
    model = Model(backbone, {"classification": Classifier.published(backbone)})
    return model.eval(), {"imgsz": backbone.preprocessing.crop}


def describe(name: str) -> dict[str, Any]:
    """Of its default weights: `score` in [0, 1] with its `metric`, `licence`, `source` and `parameters`.

    Empty where no weights are published.
    """
    known = published(name)
    if not known:
        return {}
    default = next(iter(known.values()))
    score = None if default.top1 is None else default.top1 / 100
    facts = {"score": score, "metric": "top1", "parameters": default.parameters}
    return {**facts, "licence": default.licence, "source": default.url}
