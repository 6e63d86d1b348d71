"""What torchvision publishes for its detectors and segmenters, and how its tensors get into a model of ours.

https://docs.pytorch.org/vision/stable/models.html; classifiers' weights are those of `backbones/weights.py`.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from retinue.backbones.backbone import Origin, Preprocessing
from retinue.backbones.weights import PUBLISHED_HASH, Weights, compare, locate, read_tensors
from retinue.datasets.targets import ClassMap
from retinue.tasks.task import Model

LICENCE = "BSD-3-Clause (torchvision); trained on COCO, whose annotations are CC BY 4.0"


def published_members(name: str) -> list[Any]:
    """torchvision's own descriptions of a model's weights, the default first."""
    from torchvision.models import get_model_weights  # slow, and only named models need it

    members = get_model_weights(name)
    return sorted(members, key=lambda member: member is not members.DEFAULT)


def coco_classes() -> ClassMap:
    """The 80 classes of COCO detection with their original ids, which leave out ten of 1 to 90."""
    (first, *_) = published_members("fasterrcnn_resnet50_fpn")
    named = {id: name for id, name in enumerate(first.meta["categories"]) if id and name != "N/A"}
    return ClassMap(tuple(named.values()), tuple(named))


def published_weights(name: str) -> dict[str, Weights]:
    """The published weights by name, the default first. `top1` is of classifiers: see `describe` for the score."""
    found = {}
    for member in published_members(name):
        digest = PUBLISHED_HASH.search(member.url)
        found[member.name] = Weights(
            name=member.name,
            url=member.url,
            sha256=digest.group(1) if digest else None,
            licence=LICENCE,
            top1=None,
            parameters=member.meta["num_params"],
            preprocessing=Preprocessing(),
            categories=tuple(member.meta["categories"]),
        )
    return found


def open_weights(name: str, source: str | None) -> tuple[dict[str, Tensor], Weights | None, Origin]:
    """(tensors by torchvision's names, what was published about them or None, where they came from).

    source: "coco" or None (the default, the best published ones), their name (COCO_V1), a local file or a URL of a
    torchvision `state_dict`. Raises WeightsError for weights that are unknown or unreadable.
    """
    path, known = locate(source or "coco", published_weights(name), name, default="coco")
    tensors = read_tensors(path)
    return tensors, known, Origin(known.url, known.licence) if known else Origin(str(path))


def describe(name: str, figure: tuple[str, str], metric: str) -> dict[str, Any]:
    """`score` in [0, 1] with its `metric`, `licence`, `source`, `parameters` of the default weights.

    figure: the names of the data and of the figure, in percent, under which torchvision states it.
    """
    (member, *_) = published_members(name)
    data, value = figure
    return {
        "score": member.meta["_metrics"][data][value] / 100,
        "metric": metric,
        "licence": LICENCE,
        "source": member.url,
        "parameters": member.meta["num_params"],
    }


def insert(model: Model, tensors: dict[str, Tensor], translate: Callable[[str], str], source: str) -> None:
    """Copy a torchvision `state_dict`, its names translated to ours, into a model put together alike.

    Raises WeightsError, with `source` in front, and leaves the model as it was, when keys or shapes differ.
    """
    given = {translate(key): value for key, value in tensors.items()}
    compare(model.state_dict(), given, source)
    model.load_state_dict(given, strict=False)
