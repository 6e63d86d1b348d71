"""darknet's YOLO v3 by name (https://pjreddie.com/darknet/yolo); its files read, and written for other programs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import retinue.backbones
from retinue.backbones.backbone import Origin
from retinue.backbones.darknet import PREPROCESSING, STAGES, TRUNK, Darknet53
from retinue.backbones.darknet_files import Header, file_order, read_values, take, to_bytes
from retinue.backbones.weights import Tensors, Weights, compare, locate
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.yolov3 import LEVELS, YOLOv3
from retinue.tasks.model_file import write_atomically
from retinue.tasks.task import Model
from retinue.tasks.torchvision_weights import coco_classes

LICENCE = "public domain (darknet); trained on COCO, whose annotations are CC BY 4.0"
SIDE = 416
SCORE = 0.31
"""AP on COCO test-dev at this side; at imgsz=608 it is 0.33 (arXiv:1804.02767, figure 1)."""
HEADER = Header()


def names() -> list[str]:
    """The detectors that `build` knows."""
    return ["yolov3"]


def build(name: str, weights: str | None = None) -> tuple[Model, dict[str, Any]]:
    """YOLO v3 in evaluation mode, and what its header says beside its construction.

    weights: "coco" (the default, the published ones), or a file or URL of darknet's for the same network and classes.
    Raises WeightsError for weights that are unknown, unreadable or misfit.
    """
    path, known = locate(weights or "coco", {"COCO": published_weights()}, name, default="coco")
    model = construct(coco_classes())
    read_into(model, path)
    model.backbone.weights = Origin(known.url, known.licence) if known else Origin(str(path))
    return model.eval(), {"imgsz": SIDE, "batch": 1}


def construct(classes: ClassMap, **settings: Any) -> Model:
    """YOLO v3 over Darknet-53 with random weights."""
    trunk = retinue.backbones.build("darknet53")
    return Model(trunk, {"yolov3": YOLOv3(trunk, classes, **settings)})


def published_weights() -> Weights:
    """What is published; `top1` is of classifiers: see `describe` for the score."""
    return Weights(
        name="COCO",
        url="https://pjreddie.com/media/files/yolov3.weights",
        sha256="523e4e69e1d015393a1b0a441cef1d9c7659e3eb2d7e15f793f060a21b32f297",
        licence=LICENCE,
        top1=None,
        parameters=61_949_149,
        preprocessing=PREPROCESSING,
        categories=coco_classes().names,
    )


def describe(name: str) -> dict[str, Any]:
    """`score` on COCO test-dev with its `metric`, `licence`, `source`, `parameters` of the published weights."""
    known = published_weights()
    facts = {"score": SCORE, "metric": "box/AP", "parameters": known.parameters}
    return {**facts, "licence": known.licence, "source": known.url}


# darknet's files


def read_into(model: Model, path: str | Path) -> Header:
    """Give a model the weights of darknet's file; returns its header. WeightsError where it is of another network."""
    header, values = read_values(path)
    own = model.state_dict()
    tensors: Tensors = take(values, own, _order(model), str(path))
    compare(own, tensors, str(path))
    model.load_state_dict(tensors, strict=False)
    return header


def write(model: Model, path: str | Path, side: int = SIDE, header: Header = HEADER) -> tuple[Path, Path]:
    """Write YOLO v3 over Darknet-53 as darknet and OpenCV 4 read it: (the weights `path`, the description beside it).

    The description has the suffix .cfg; its network reads pictures of `side`, letterboxed, RGB in [0, 1]. Raises
    DataError for a model of another kind.
    """
    weights = Path(path)
    text = description(model, side)
    content = to_bytes(model.state_dict(), _order(model), header)
    write_atomically(weights, lambda file: file.write(content))
    cfg = weights.with_suffix(".cfg")
    write_atomically(cfg, lambda file: file.write(text.encode()))
    return weights, cfg


def _task(model: Model) -> tuple[str, YOLOv3]:
    """The model's YOLO v3 and its name; DataError where there is none, or its trunk is no Darknet-53."""
    for name, task in model.named_tasks.items():
        if isinstance(task, YOLOv3) and isinstance(model.backbone, Darknet53):
            return name, task
    raise DataError("darknet's files are of yolov3 over darknet53; this model is another one")


def _order(model: Model) -> list[str]:
    """Names of the model's tensors in the order of `description`'s layers."""
    name, task = _task(model)
    parts = [f"backbone.{part}" for part in TRUNK]
    for i in range(len(task.stages)):
        parts += [f"tasks.{name}.reductions.{i - 1}"] if i else []
        parts += [f"tasks.{name}.stages.{i}", f"tasks.{name}.predictors.{i}"]
    return file_order(model, parts)


def description(model: Model, side: int = SIDE) -> str:
    """The network as text, in the form of darknet's yolov3.cfg, for pictures of `side` by `side`."""
    _, task = _task(model)
    anchors = task.anchors(side)
    sections = [_section("net", batch=1, width=side, height=side, channels=model.backbone.in_channels)]
    ends: dict[str, int] = {}
    for level, layers in _trunk().items():
        sections += layers
        ends[level] = len(sections) - 2  # layers count from 0, and `net` is none
    width = task.settings["width"] * 4
    for i, level in enumerate(reversed(LEVELS)):
        if i:
            sections += [
                _section("route", layers=-4),
                _convolution(width // 2, 1),
                _section("upsample", stride=2),
            ]
            sections += [_section("route", layers=f"-1, {ends[level]}")]
        sections += [_convolution(width // 2, 1), _convolution(width, 3)] * 3
        sections += _prediction(len(LEVELS) - 1 - i, anchors.tolist(), len(task.classes))
        width //= 2
    return "\n".join(sections)


def _trunk() -> dict[str, list[str]]:
    """Darknet-53's sections by the level that they end in."""
    found = {"c1": [_convolution(32, 3)]}
    for i, (channels, blocks) in enumerate(STAGES, 1):
        block = [_convolution(channels // 2, 1), _convolution(channels, 3)]
        block.append(_section("shortcut", **{"from": -3, "activation": "linear"}))
        found.setdefault(f"c{i}", []).extend([_convolution(channels, 3, 2), *block * blocks])
    return found


def _prediction(level: int, anchors: list[list[list[float]]], classes: int) -> Iterator[str]:
    """The last convolution of a level and what reads it."""
    each = len(anchors[0])
    yield _section(
        "convolutional", size=1, stride=1, pad=1, filters=each * (5 + classes), activation="linear"
    )
    yield _section(
        "yolo",
        mask=",".join(str(level * each + i) for i in range(each)),
        anchors=", ".join(f"{w:.9g},{h:.9g}" for own in anchors for w, h in own),
        classes=classes,
        num=each * len(anchors),
    )


def _convolution(filters: int, size: int, stride: int = 1) -> str:
    return _section(
        "convolutional",
        batch_normalize=1,
        filters=filters,
        size=size,
        stride=stride,
        pad=1,
        activation="leaky",
    )


def _section(name: str, **values: Any) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in values.items()), ""])
