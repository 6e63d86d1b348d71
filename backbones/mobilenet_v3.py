"""MobileNetV3 (Howard et al. 2019, arXiv:1905.02244): searched blocks, squeeze-and-excitation, hard swish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.mobilenet_v2 import initialise
from retinue.backbones.weights import load

NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)  # section 6.1.1, as the reference implementation


@dataclass(frozen=True)
class Block:
    """One row of tables 1 and 2."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    hard_swish: bool
    stride: int
    dilation: int = 1


LARGE = (
    Block(3, 16, 16, False, False, 1),
    Block(3, 64, 24, False, False, 2),
    Block(3, 72, 24, False, False, 1),
    Block(5, 72, 40, True, False, 2),
    Block(5, 120, 40, True, False, 1),
    Block(5, 120, 40, True, False, 1),
    Block(3, 240, 80, False, True, 2),
    Block(3, 200, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 184, 80, False, True, 1),
    Block(3, 480, 112, True, True, 1),
    Block(3, 672, 112, True, True, 1),
    Block(5, 672, 160, True, True, 2),
    Block(5, 960, 160, True, True, 1),
    Block(5, 960, 160, True, True, 1),
)
SMALL = (
    Block(3, 16, 16, True, False, 2),
    Block(3, 72, 24, False, False, 2),
    Block(3, 88, 24, False, False, 1),
    Block(5, 96, 40, True, True, 2),
    Block(5, 240, 40, True, True, 1),
    Block(5, 240, 40, True, True, 1),
    Block(5, 120, 48, True, True, 1),
    Block(5, 144, 48, True, True, 1),
    Block(5, 288, 96, True, True, 2),
    Block(5, 576, 96, True, True, 1),
    Block(5, 576, 96, True, True, 1),
)
LARGE_TAPS = {
    "c1": 1,
    "c2": 3,
    "block4": 4,
    "c3": 6,
    "block7": 7,
    "c4": 12,
    "block13": 13,
    "block15": 15,
    "c5": 16,
}
SMALL_TAPS = {
    "c1": 0,
    "c2": 1,
    "block2": 2,
    "c3": 3,
    "block4": 4,
    "c4": 8,
    "block9": 9,
    "block11": 11,
    "c5": 12,
}


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, that does not lose more than a tenth.

    >>> round_channels(18), round_channels(28.8), round_channels(11)
    (24, 32, 16)
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class InvertedResidual(nn.Module):
    """MobileNetV2's block with squeeze-and-excitation on the expansion (figure 4)."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        self.shortcut = block.stride == 1 and inputs == block.outputs
        activation = nn.Hardswish if block.hard_swish else nn.ReLU
        layer = partial(Conv2dNormActivation, norm_layer=NORM, activation_layer=activation)
        layers: list[nn.Module] = []
        if block.expanded != inputs:
            layers.append(layer(inputs, block.expanded, 1))
        layers.append(
            layer(
                block.expanded,
                block.expanded,
                block.kernel,
                1 if block.dilation > 1 else block.stride,
                groups=block.expanded,
                dilation=block.dilation,
            )
        )
        if block.squeeze:
            squeezed = round_channels(block.expanded // 4)
            layers.append(SqueezeExcitation(block.expanded, squeezed, scale_activation=nn.Hardsigmoid))
        layers.append(
            Conv2dNormActivation(block.expanded, block.outputs, 1, norm_layer=NORM, activation_layer=None)
        )
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, ceil(h / stride), ceil(w / stride))."""
        return x + self.block(x) if self.shortcut else self.block(x)


class MobileNetV3(Backbone):
    """MobileNetV3 from the rows of its table; `taps` says after which of `features` each level is read.

    The last block of stride 2 is also read at its expansion (`expand13` in the large network), where SSDLite
    and the paper's C4 begin (section 6.3). `dilated` gives everything from there on stride 16 (section 6.4);
    `reduced_tail` halves its channels (section 6.3).
    """

    top_modules = ("classifier", "avgpool")

    def __init__(
        self,
        blocks: Sequence[Block],
        taps: Mapping[str, int],
        embedding: int,
        in_channels: int = 3,
        classes: int = 1000,
        dilated: bool = False,
        reduced_tail: bool = False,
    ) -> None:
        super().__init__(in_channels)
        self.taps = dict(taps)
        self.strided = max(i for i, block in enumerate(blocks, 1) if block.stride == 2)
        blocks = [*blocks[: self.strided - 1], *_tail(blocks[self.strided - 1 :], dilated, reduced_tail)]
        channels = 16
        layer = partial(Conv2dNormActivation, norm_layer=NORM, activation_layer=nn.Hardswish)
        features: list[nn.Module] = [layer(in_channels, channels, 3, 2)]
        for block in blocks:
            features.append(InvertedResidual(channels, block))
            channels = block.outputs
        features.append(layer(channels, 6 * channels, 1))
        self.embedding = embedding // 2 if reduced_tail else embedding
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, self.embedding),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(self.embedding, classes),
        )
        self.levels = {"image": Level(in_channels, 1), **self._levels(blocks)}
        initialise(self)

    def _levels(self, blocks: Sequence[Block]) -> dict[str, Level]:
        outputs = [Level(16, 2)]
        for block in blocks:
            stride = outputs[-1].stride * (1 if block.dilation > 1 else block.stride)
            outputs.append(Level(block.outputs, stride))
        outputs.append(Level(6 * outputs[-1].channels, outputs[-1].stride))
        levels = {}
        for name, index in self.taps.items():
            if index == self.strided:
                levels[f"expand{index}"] = Level(blocks[index - 1].expanded, outputs[index - 1].stride)
            levels[name] = outputs[index]
        return levels

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """Parts by map; the last strided block has no shortcut, so that it may be read between its layers."""
        blocks, start = list(self.features), 0
        parts: dict[str, Sequence[nn.Module]] = {}
        for name, index in self.taps.items():
            parts[name] = blocks[start : index + 1]
            if index == self.strided:
                layers = list(blocks[index].get_submodule("block").children())
                del parts[name]
                parts[f"expand{index}"], parts[name] = layers[:1], layers[1:]
            start = index + 1
        return parts

    def top(self) -> Top:
        """Global average pooling, then the paper's 1x1 layers on 1x1 maps, written as linear ones."""
        embed = nn.Sequential(self.avgpool, nn.Flatten(), *self.classifier[:3])
        return Top("c5", self.embedding, embed, self.classifier[3])


def _tail(blocks: Sequence[Block], dilated: bool, reduced: bool) -> list[Block]:
    """The blocks of stride 32, dilated instead of strided and with half the channels where asked."""
    rows = [replace(block, dilation=2) if dilated else block for block in blocks]
    if not reduced:
        return rows
    halved = [replace(block, outputs=block.outputs // 2) for block in rows]
    return halved[:1] + [replace(block, expanded=block.expanded // 2) for block in halved[1:]]


def mobilenet_v3_large(
    weights: str | None = None,
    *,
    in_channels: int = 3,
    classes: int = 1000,
    dilated: bool = False,
    reduced_tail: bool = False,
) -> MobileNetV3:
    """MobileNetV3-Large, 5.5 million parameters; `dilated` and `reduced_tail` as in `MobileNetV3`."""
    family = {"dilated": dilated, "reduced_tail": reduced_tail}
    backbone = MobileNetV3(LARGE, LARGE_TAPS, 1280, in_channels, classes, **family)
    options = {"in_channels": in_channels, "classes": classes, **family}
    return load(backbone, "mobilenet_v3_large", weights, options)


def mobilenet_v3_small(
    weights: str | None = None,
    *,
    in_channels: int = 3,
    classes: int = 1000,
    dilated: bool = False,
    reduced_tail: bool = False,
) -> MobileNetV3:
    """MobileNetV3-Small, 2.5 million parameters; `dilated` and `reduced_tail` as in `MobileNetV3`."""
    family = {"dilated": dilated, "reduced_tail": reduced_tail}
    backbone = MobileNetV3(SMALL, SMALL_TAPS, 1024, in_channels, classes, **family)
    options = {"in_channels": in_channels, "classes": classes, **family}
    return load(backbone, "mobilenet_v3_small", weights, options)
