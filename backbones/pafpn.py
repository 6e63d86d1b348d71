"""Path aggregation (Liu et al. 2018, arXiv:1803.01534) as in YOLOX (Ge et al. 2021): down the pyramid and up again.

Modules have the names of YOLOX's published checkpoints.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Features, Level
from retinue.backbones.csp_darknet import ConvBlock, CSPLayer, bottlenecks, conv3x3
from retinue.backbones.neck import Neck

LEVELS = ("n3", "n4", "n5")


class PAFPN(Neck):
    """Adds n3, n4 and n5 to the levels of its body, made of three of them, by default c3, c4 and c5.

    depth, width: multiples of 3 bottlenecks a join, and of 256, 512 and 1024 channels. depthwise: 3x3 convolutions
    channel by channel. The finest map is carried down from the coarsest by nearest neighbours, joined on its way with
    the body's maps, and up again by strided convolutions; joins are of channels, through a cross-stage partial layer.
    Raises KeyError for a level that the body does not have, ValueError unless they are three.
    """

    def __init__(
        self,
        backbone: Backbone,
        levels: Sequence[str] = ("c3", "c4", "c5"),
        depth: float = 0.33,
        width: float = 0.5,
        depthwise: bool = False,
    ) -> None:
        if len(levels) != 3:
            raise ValueError(f"levels={list(levels)}: path aggregation reads three, finest first")
        super().__init__(backbone, levels, "pafpn", depth=depth, width=width, depthwise=depthwise)
        self.depth, self.width, self.depthwise = depth, width, depthwise
        c3, c4, c5 = (backbone.levels[name].channels for name in levels)
        n3, n4, n5 = (int(channels * width) for channels in (256, 512, 1024))

        def join(inputs: int, outputs: int) -> CSPLayer:
            return CSPLayer(inputs, outputs, bottlenecks(depth), False, depthwise)

        self.lateral_conv0 = ConvBlock(c5, n4, 1)
        self.C3_p4 = join(n4 + c4, n4)
        self.reduce_conv1 = ConvBlock(n4, n3, 1)
        self.C3_p3 = join(n3 + c3, n3)
        self.bu_conv2 = conv3x3(n3, n3, 2, depthwise)
        self.C3_n3 = join(2 * n3, n4)
        self.bu_conv1 = conv3x3(n4, n4, 2, depthwise)
        self.C3_n4 = join(2 * n4, n5)
        strides = [backbone.levels[name].stride for name in levels]
        self.finish({name: Level(n, s) for name, n, s in zip(LEVELS, (n3, n4, n5), strides)})

    def own_modules(self) -> list[nn.Module]:
        """The way down, then the way up."""
        return [
            *(self.lateral_conv0, self.C3_p4, self.reduce_conv1, self.C3_p3),
            *(self.bu_conv2, self.C3_n3, self.bu_conv1, self.C3_n4),
        ]

    def forward(self, images: Tensor, levels: Collection[str] | None = None) -> Features:
        """Maps of pictures (n, channels, h, w), float, RGB in [0, 1]: the body's and the neck's.

        Only what `levels` needs is computed. Raises KeyError for an unknown level.
        """
        wanted = self.wanted(levels)
        own = [name for name in LEVELS if name in wanted]
        maps = self.body(images, (wanted - {*own}) | (set(self.reads) if own else set()))
        if own:
            maps |= self._aggregate([maps[name] for name in self.reads], own[-1])
        return {name: maps[name] for name in self.levels if name in wanted}

    def _aggregate(self, maps_of_body: Sequence[Tensor], last: str) -> Features:
        """The neck's levels up to the last one that is wanted."""
        c3, c4, c5 = maps_of_body
        p5 = self.lateral_conv0(c5)
        p4 = self.reduce_conv1(self.C3_p4(torch.cat([_enlarge(p5, c4), c4], 1)))
        maps = {"n3": self.C3_p3(torch.cat([_enlarge(p4, c3), c3], 1))}
        if last != "n3":
            maps["n4"] = self.C3_n3(torch.cat([self.bu_conv2(maps["n3"]), p4], 1))
        if last == "n5":
            maps["n5"] = self.C3_n4(torch.cat([self.bu_conv1(maps["n4"]), p5], 1))
        return maps


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="nearest")
