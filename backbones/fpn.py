"""Feature Pyramid Network (Lin et al. 2016, arXiv:1612.03144): a backbone around a backbone."""

from collections.abc import Callable, Collection, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from retinue.backbones.backbone import Backbone, Features, Level
from retinue.backbones.neck import Neck

Extra = Literal["pool", "p6p7", "p6p7_c5"]


class FPN(Neck):
    """Adds to the levels of its `body` one of `channels` for each that it reads: p2 from c2, and so on.

    `levels` are read finest first; the level made from another tap than c1..c5 is named after it (`p_block13`).
    `extra` adds coarser levels above the last, which must then be a c: "pool", every other position of it (Lin,
    section 4.1, footnote); "p6p7", two convolutions of stride 2 on p5 (FCOS, arXiv:1904.01355); "p6p7_c5", the
    same on c5 (RetinaNet, arXiv:1708.02002, section 4). `norm="batch"`: batch norm after the pyramid's
    convolutions, in place of their biases.

    The body's stages come first, then the stage `fpn`: `freeze("c5")` freezes the body and leaves the pyramid, whose
    modules are marked as new.
    Parameters are named as in torchvision's FeaturePyramidNetwork, beside the body's under `body.`.
    Raises KeyError for a level that the body does not have, ValueError for an `extra` or `norm` that is none.
    """

    def __init__(
        self,
        backbone: Backbone,
        levels: Sequence[str] = ("c2", "c3", "c4", "c5"),
        channels: int = 256,
        extra: Extra | None = None,
        norm: Literal["batch"] | None = None,
    ) -> None:
        _check(levels, extra, norm)
        super().__init__(backbone, levels, "fpn", channels=channels, extra=extra, norm=norm)
        self.channels, self.extra = channels, extra
        inputs = [backbone.levels[name].channels for name in self.reads]
        norm_layer = nn.BatchNorm2d if norm == "batch" else None
        self.inner_blocks = nn.ModuleList(_conv(n, channels, 1, norm_layer) for n in inputs)
        self.layer_blocks = nn.ModuleList(_conv(channels, channels, 3, norm_layer) for _ in inputs)
        self.extra_blocks = nn.ModuleDict()
        if extra in ("p6p7", "p6p7_c5"):
            self.extra_blocks["p6"] = nn.Conv2d(
                channels if extra == "p6p7" else inputs[-1], channels, 3, 2, 1
            )
            self.extra_blocks["p7"] = nn.Conv2d(channels, channels, 3, 2, 1)
        for module in self.own_modules():
            _initialise(module)
        self.finish(self._pyramid())

    def own_modules(self) -> list[nn.Module]:
        """Lateral and smoothing convolutions, and those of coarser levels."""
        return [self.inner_blocks, self.layer_blocks, self.extra_blocks]

    def _pyramid(self) -> dict[str, Level]:
        """The levels of the pyramid."""
        strides = {_name(name): self.body.levels[name].stride for name in self.reads}
        self.extra_levels: tuple[str, ...] = ()
        if self.extra:
            last = int(self.reads[-1][1:])
            self.extra_levels = tuple(f"p{last + i}" for i in ((1,) if self.extra == "pool" else (1, 2)))
        for i, name in enumerate(self.extra_levels, 1):
            strides[name] = self.body.levels[self.reads[-1]].stride * 2**i
        return {name: Level(self.channels, stride) for name, stride in strides.items()}

    def forward(self, images: Tensor, levels: Collection[str] | None = None) -> Features:
        """Maps of pictures (n, channels, h, w), float, RGB in [0, 1]: the body's and the pyramid's.

        Only what `levels` needs is computed. Raises KeyError for an unknown level.
        """
        wanted = self.wanted(levels)
        pyramid = wanted - self.body.levels.keys()
        depth = min(
            (i for i, name in enumerate(self.reads) if _name(name) in pyramid), default=len(self.reads) - 1
        )
        needed = set(self.reads[depth:]) if pyramid else set()
        maps = self.body(images, (wanted - pyramid) | needed)
        if pyramid:
            maps |= self._top_down(maps, depth, pyramid)
        return {name: maps[name] for name in self.levels if name in wanted}

    def _top_down(self, maps: Features, depth: int, wanted: Collection[str]) -> Features:
        """The wanted maps of the pyramid, which is built from the last level down to number `depth`."""
        names = [_name(name) for name in self.reads]
        extra = any(name in wanted for name in self.extra_levels)
        smoothed = {*wanted, names[-1]} if extra and self.extra != "p6p7_c5" else wanted
        merged: Tensor | None = None
        pyramid: Features = {}
        for i in reversed(range(depth, len(names))):
            x = maps[self.reads[i]]
            lateral = self.inner_blocks[i](x)
            if merged is not None:
                lateral = lateral + F.interpolate(merged, x.shape[-2:], mode="nearest")
            merged = lateral
            if names[i] in smoothed:
                pyramid[names[i]] = self.layer_blocks[i](merged)
        if extra:
            source = maps[self.reads[-1]] if self.extra == "p6p7_c5" else pyramid[names[-1]]
            pyramid |= self._coarser(source, wanted)
        return pyramid

    def _coarser(self, x: Tensor, wanted: Collection[str]) -> Features:
        """The extra levels above `x`, the last level or the map that it was made from."""
        if self.extra == "pool":
            return {self.extra_levels[0]: x[:, :, ::2, ::2]}
        maps = {self.extra_levels[0]: self.extra_blocks["p6"](x)}
        if self.extra_levels[1] in wanted:
            maps[self.extra_levels[1]] = self.extra_blocks["p7"](maps[self.extra_levels[0]].relu())
        return maps


def _check(levels: Sequence[str], extra: str | None, norm: str | None) -> None:
    if extra not in (None, "pool", "p6p7", "p6p7_c5"):
        raise ValueError(f"extra={extra!r}: give None, 'pool', 'p6p7' or 'p6p7_c5'")
    if norm not in (None, "batch"):
        raise ValueError(f"norm={norm!r}: give None or 'batch'")
    if extra and levels and not levels[-1][1:].isdigit():
        raise ValueError(f"extra={extra!r} continues c1..c5, but the last level read is {levels[-1]!r}")


def _name(level: str) -> str:
    """c4 -> p4, block13 -> p_block13."""
    return f"p{level[1:]}" if level[:1] == "c" and level[1:].isdigit() else f"p_{level}"


def _conv(inputs: int, outputs: int, kernel: int, norm: Callable[[int], nn.Module] | None) -> nn.Module:
    return Conv2dNormActivation(inputs, outputs, kernel, norm_layer=norm, activation_layer=None)


def _initialise(network: nn.Module) -> None:
    """Convolutions uniform, by their fan in, with variance kept (gain 1)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
