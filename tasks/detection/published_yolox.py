"""YOLOX's published detectors by name: https://github.com/Megvii-BaseDetection/YOLOX, release 0.1.1rc0."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import retinue.backbones
from retinue.backbones.backbone import Origin
from retinue.backbones.csp_darknet import PREPROCESSING
from retinue.backbones.fold import folded_norm
from retinue.backbones.onnx_file import Convolution, read_convolutions
from retinue.backbones.weights import Weights, WeightsError, compare, locate, read_tensors
from retinue.tasks.detection.yolox import YOLOX
from retinue.tasks.task import Model
from retinue.tasks.torchvision_weights import coco_classes

URL = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/"
LICENCE = "Apache-2.0 (YOLOX); trained on COCO, whose annotations are CC BY 4.0"
DETECTORS = {  # side, AP on COCO val2017, parameters
    "yolox_nano": (416, 0.258, 912_159),
    "yolox_tiny": (416, 0.328, 5_055_855),
    "yolox_s": (640, 0.405, 8_968_255),
    "yolox_m": (640, 0.469, 25_326_495),
    "yolox_l": (640, 0.497, 54_208_895),
    "yolox_x": (640, 0.511, 99_071_455),
}


def names() -> list[str]:
    """The detectors that `build` knows."""
    return list(DETECTORS)


def build(name: str, weights: str | None = None) -> tuple[Model, dict[str, Any]]:
    """A published detector in evaluation mode, and what its header says beside its construction.

    weights: "coco" (the default, the published ones), or a local file or a URL of a checkpoint of theirs or of an ONNX
    file that was exported of one (`.onnx`), whose batch norms are folded: see `retinue.backbones.fold.unfold`. Raises
    WeightsError for weights that are unknown, unreadable or misfit.
    """
    path, known = locate(weights or "coco", {"COCO": published_weights(name)}, name, default="coco")
    model = construct(name)
    if path.suffix == ".onnx":
        tensors = folded_tensors(model, read_convolutions(path), str(path))
    else:
        tensors = {translate(key): value for key, value in read_tensors(path).items()}
    compare(model.state_dict(), tensors, str(path))
    model.load_state_dict(tensors, strict=False)
    model.backbone.weights = Origin(known.url, known.licence) if known else Origin(str(path))
    return model.eval(), {"imgsz": DETECTORS[name][0], "batch": 8}


def construct(name: str) -> Model:
    """The detector with random weights."""
    trunk = YOLOX.trunk_for(retinue.backbones.build(f"csp_darknet_{name.removeprefix('yolox_')}"), {})
    return Model(trunk, {"yolox": YOLOX(trunk, coco_classes())})


def published_weights(name: str) -> Weights:
    """What is published of a detector; `top1` is of classifiers: see `describe` for the score."""
    return Weights(
        name="COCO",
        url=f"{URL}{name}.pth",
        sha256=None,
        licence=LICENCE,
        top1=None,
        parameters=DETECTORS[name][2],
        preprocessing=PREPROCESSING,
        categories=coco_classes().names,
    )


def describe(name: str) -> dict[str, Any]:
    """`score` on COCO val2017 with its `metric`, `licence`, `source`, `parameters` of the published weights."""
    _, score, parameters = DETECTORS[name]
    source = f"{URL}{name}.pth"
    return {
        "score": score,
        "metric": "box/AP",
        "licence": LICENCE,
        "source": source,
        "parameters": parameters,
    }


def translate(key: str) -> str:
    """Their name of a tensor -> ours."""
    if key.startswith("backbone.backbone."):
        return key.replace("backbone.backbone.", "backbone.body.", 1)
    return key if key.startswith("backbone.") else f"tasks.yolox.{key}"


def folded_tensors(model: Model, convolutions: list[Convolution], source: str) -> dict[str, Tensor]:
    """The state of a detector whose batch norms only add the biases of an exported one's convolutions.

    The file's n-th convolution is the n-th that the detector runs: both follow the network's own code.
    Raises WeightsError, with `source` in front, where their number or shapes differ.
    """
    layers = list(running_order(model))
    if len(layers) != len(convolutions):
        raise WeightsError(
            f"{source}: {len(convolutions)} convolutions, this detector has {len(layers)}; choose the one it is of"
        )
    tensors: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    for path, (weight, bias) in zip(layers, convolutions):
        norm = modules.get(f"{path.removesuffix('conv')}bn") if path.endswith(".conv") else None
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        tensors[f"{path}.weight"] = weight
        if isinstance(norm, nn.BatchNorm2d):
            own = folded_norm(norm, bias)
            tensors |= {f"{path.removesuffix('conv')}bn.{key}": value for key, value in own.items()}
        else:
            tensors[f"{path}.bias"] = bias
    return tensors


def running_order(model: Model) -> Iterator[str]:
    """The paths of a detector's convolutions in the order in which it runs them."""
    called: list[str] = []
    paths = {module: path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    hooks = [m.register_forward_pre_hook(lambda module, _: called.append(paths[module])) for m in paths]
    (task,) = model.named_tasks.values()
    with torch.no_grad():
        task.score(model.eval().backbone(torch.zeros(1, 3, 64, 64), task.levels))  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    return iter(called)
