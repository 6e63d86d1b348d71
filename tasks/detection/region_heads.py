"""What reads a region's pooled map: the heads of boxes, over a pyramid, over a trunk's own top, or over res5."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from retinue.backbones.backbone import Backbone, Top
from retinue.backbones.fpn import FPN
from retinue.backbones.fused import fuse
from retinue.datasets.targets import DataError

Head = Literal["auto", "mlp", "conv", "fc", "c4"]


class MLPHead(nn.Module):
    """Two layers of `width` on the flattened map (Lin et al. 2016, arXiv:1612.03144, section 4.2)."""

    def __init__(self, channels: int, side: int, width: int = 1024) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * side**2, width)
        self.fc7 = nn.Linear(width, width)
        self.outputs = width

    def forward(self, x: Tensor) -> Tensor:
        """(r, channels, side, side) -> (r, width)."""
        return self.fc7(self.fc6(x.flatten(1)).relu()).relu()


class ConvHead(nn.Sequential):
    """Four 3x3 convolutions with batch norm and one layer of `width` (Li et al. 2021, arXiv:2111.11429)."""

    def __init__(self, channels: int, side: int, width: int = 1024) -> None:
        convolutions = [
            Conv2dNormActivation(channels, channels, 3, norm_layer=nn.BatchNorm2d) for _ in range(4)
        ]
        super().__init__(*convolutions, nn.Flatten(), nn.Linear(channels * side**2, width), nn.ReLU())
        self.outputs = width
        kaiming(self)


class Res5Head(nn.Module):
    """The trunk's last stage on every region, averaged (He et al. 2015, arXiv:1512.03385, appendix A)."""

    def __init__(self, stage: nn.Module, outputs: int) -> None:
        super().__init__()
        self.stage, self.outputs = stage, outputs

    def forward(self, x: Tensor) -> Tensor:
        """(r, channels, side, side) -> (r, outputs)."""
        return self.maps(x).mean((2, 3))

    def maps(self, x: Tensor) -> Tensor:
        """(r, outputs, side', side'), before the average: what a mask is made from."""
        return self.stage(x)


class TopHead(nn.Module):
    """The classifier's own fc6 and fc7 on every region, as published with VGG (Girshick 2015, arXiv:1504.08083)."""

    def __init__(self, embed: nn.Module, outputs: int) -> None:
        super().__init__()
        self.embed, self.outputs = embed, outputs

    def forward(self, x: Tensor) -> Tensor:
        """(r, channels, side, side) -> (r, outputs)."""
        return self.embed(x)


class BoxPredictor(nn.Module):
    """Scores of background and every class, and a box code for each of them."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(inputs, 1 + classes)
        self.bbox_pred = nn.Linear(inputs, 4 * (1 + classes))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(r, inputs) -> logits (r, 1 + classes), codes (r, 1 + classes, 4)."""
        return self.cls_score(x), self.bbox_pred(x).unflatten(1, (-1, 4))


def build_head(backbone: Backbone, kind: Head) -> tuple[nn.Module, tuple[str, ...], int]:
    """(the head, the levels that regions are pooled from, the side that they are pooled to).

    "auto" is an MLP over a pyramid, else the classifier's fc6 and fc7 where it has them, else res5 per region ("c4"),
    where the last stage can be taken off, else an MLP over the coarsest level. Takes the classifier off the backbone.
    Raises DataError for a head that this backbone cannot have.
    """
    if kind not in get_args(Head):
        raise DataError(f"head={kind!r}: use one of {', '.join(get_args(Head))}")
    top = backbone.chop()
    levels = region_levels(backbone)
    if kind == "auto":
        kind = _suitable(backbone, top)
    if kind == "fc":
        if isinstance(backbone, FPN) or top is None or not list(top.embed.parameters()):
            raise DataError(
                "head='fc' needs a plain trunk (pyramid=false) whose classifier has fully connected layers: vgg16"
            )
        return TopHead(top.embed, top.embedding), (_before_pooling(backbone, top.level),), _side(top.embed)
    if kind == "c4":
        if not _can_cut(backbone):
            raise DataError(
                "head='c4' needs a plain trunk (pyramid=false) whose last stage is c5, after c4: resnet50"
            )
        outputs = backbone.levels["c5"].channels
        return Res5Head(backbone.cut("c5"), outputs), ("c4",), 14
    channels = backbone.levels[levels[-1]].channels
    return (ConvHead if kind == "conv" else MLPHead)(channels, 7), levels, 7


def fuse_head(head: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A head for prediction in `dtype`; one over res5 stays one, for masks are made from its maps too."""
    return (
        Res5Head(fuse(head.stage, dtype), head.outputs) if isinstance(head, Res5Head) else fuse(head, dtype)
    )


def _suitable(backbone: Backbone, top: Top | None) -> Head:
    if isinstance(backbone, FPN):
        return "mlp"
    if top is not None and _side(top.embed) > 1 and list(top.embed.parameters()):
        return "fc"
    return "c4" if _can_cut(backbone) else "mlp"


def _can_cut(backbone: Backbone) -> bool:
    return not isinstance(backbone, FPN) and list(backbone.stages())[-2:] == ["c4", "c5"]


def region_levels(backbone: Backbone) -> tuple[str, ...]:
    """Where regions are pooled: all of a pyramid but what only proposals read, else the coarsest level."""
    if isinstance(backbone, FPN):
        return tuple(n for n in backbone.levels if n.startswith("p") and n not in backbone.extra_levels)
    return (max(reversed(list(backbone.levels)), key=lambda name: backbone.levels[name].stride),)


def _before_pooling(backbone: Backbone, level: str) -> str:
    """The map that a level is pooled from, where it is no more than that: regions are pooled in its place."""
    names = list(backbone.levels)
    before = names[names.index(level) - 1]
    pooled = backbone.levels[before].channels == backbone.levels[level].channels
    return before if pooled and backbone.levels[before].stride < backbone.levels[level].stride else level


def _side(embed: nn.Module) -> int:
    """The side of the map that a classifier's fully connected layers read."""
    sizes = [m.output_size for m in embed.modules() if isinstance(m, nn.AdaptiveAvgPool2d)]
    size = sizes[0] if sizes else 1
    return int(size if isinstance(size, int) else size[0])  # type: ignore[index, arg-type]


def kaiming(network: nn.Module) -> None:
    """Convolutions as in He et al. 2015, arXiv:1502.01852; biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
