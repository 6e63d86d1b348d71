"""Backbones by name: `resnet50("imagenet")`, or `build("resnet50", "imagenet")`."""

from difflib import get_close_matches
from typing import Any

from retinue.backbones.alexnet import alexnet
from retinue.backbones.backbone import Backbone, is_norm
from retinue.backbones.convnext import convnext_base, convnext_large, convnext_small, convnext_tiny
from retinue.backbones.csp_darknet import (
    csp_darknet_l,
    csp_darknet_m,
    csp_darknet_nano,
    csp_darknet_s,
    csp_darknet_tiny,
    csp_darknet_x,
)
from retinue.backbones.darknet import darknet53
from retinue.backbones.dilate import dilate
from retinue.backbones.efficientnet import (
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_v2_l,
    efficientnet_v2_m,
    efficientnet_v2_s,
)
from retinue.backbones.fpn import FPN
from retinue.backbones.from_timm import from_timm
from retinue.backbones.googlenet import googlenet
from retinue.backbones.lenet import lenet5
from retinue.backbones.mobilenet_v2 import mobilenet_v2
from retinue.backbones.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from retinue.backbones.neck import Neck
from retinue.backbones.pafpn import PAFPN
from retinue.backbones.pixels import pixels
from retinue.backbones.resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from retinue.backbones.senet import seresnet50
from retinue.backbones.shufflenet import (
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
)
from retinue.backbones.squeezenet import squeezenet1_0, squeezenet1_1
from retinue.backbones.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from retinue.backbones.weights import WeightsError
from retinue.backbones.zfnet import zfnet

__all__ = [
    "alexnet",
    "build",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "csp_darknet_l",
    "csp_darknet_m",
    "csp_darknet_nano",
    "csp_darknet_s",
    "csp_darknet_tiny",
    "csp_darknet_x",
    "darknet53",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "lenet5",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "names",
    "pixels",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "seresnet50",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "zfnet",
]


NECKS: dict[str, type[Neck]] = {"fpn": FPN, "pafpn": PAFPN}


def names() -> list[str]:
    """The names that `build` knows, in alphabetical order; "timm/NAME" beside them."""
    return [name for name in __all__ if name not in ("build", "names")]


def build(name: str, weights: str | None = None, **options: Any) -> Backbone:
    """The backbone called `name`, with `weights` and `options` as its builder takes them.

    `norm_eps` replaces the builder's epsilon of all batch norms: published detectors were trained with others.
    `max_stride` turns the strides of deeper stages into dilations (`dilate`).
    Every builder's backbone remembers its options: `build(b.architecture, **b.options)` gives the same modules.
    Raises WeightsError for an unknown name.
    """
    if "norm_eps" in options:
        return set_norm_eps(
            build(name, weights, **{k: v for k, v in options.items() if k != "norm_eps"}), options["norm_eps"]
        )
    if "max_stride" in options:
        backbone = build(name, weights, **{k: v for k, v in options.items() if k != "max_stride"})
        dilate(backbone, options["max_stride"])
        return backbone
    if name.startswith("timm/"):
        return from_timm(name.removeprefix("timm/"), weights, **options)
    if name in NECKS and "body" in options:  # what a neck remembers: its body, and how it reads it
        body = build(options.pop("body"), weights, **options.pop("body_options", {}))
        return NECKS[name](body, **options)
    if name not in names():
        close = get_close_matches(name, names(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(names())}"
        raise WeightsError(f"no backbone {name!r}: {hint}")
    builder = globals()[name]
    return builder(weights, **options)


def set_norm_eps(backbone: Backbone, eps: float) -> Backbone:
    """Give all batch norms this epsilon, which the backbone's options then say. Returns it."""
    for module in backbone.modules():
        if is_norm(module):
            module.eps = eps  # type: ignore[assignment]
    backbone.options["norm_eps"] = eps
    return backbone
