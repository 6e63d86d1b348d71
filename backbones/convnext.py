"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545): convolutions brought up to the transformers' design."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation, Permute, StochasticDepth

from retinue.backbones.backbone import Backbone, Level, Top
from retinue.backbones.weights import load


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of every position of a map (n, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> the same."""
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depth-wise 7x7, layer norm, two linear layers, a learned scale per channel (figure 4, right).

    `drop` is the probability with which a picture passes by the shortcut alone in training.
    """

    def __init__(self, channels: int, drop: float, layer_scale: float = 1e-6) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute([0, 2, 3, 1]),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute([0, 3, 1, 2]),
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), layer_scale))
        self.stochastic_depth = StochasticDepth(drop, "row")

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same."""
        return x + self.stochastic_depth(self.layer_scale * self.block(x))


class ConvNeXt(Backbone):
    """ConvNeXt: levels c2..c5, for its stem goes from stride 1 to 4 in one step.

    `depths` and `widths`: blocks and channels of the four stages. `stochastic_depth`: the last block's drop
    probability; the ones before rise to it linearly.
    """

    top_modules = ("classifier", "avgpool")

    def __init__(
        self,
        depths: Sequence[int],
        widths: Sequence[int],
        stochastic_depth: float,
        in_channels: int = 3,
        classes: int = 1000,
    ) -> None:
        super().__init__(in_channels)
        drops = torch.linspace(0, stochastic_depth, sum(depths), device="cpu").tolist()
        stem = Conv2dNormActivation(
            in_channels, widths[0], 4, 4, 0, norm_layer=LayerNorm2d, activation_layer=None, bias=True
        )
        parts: list[nn.Module] = [stem]
        self.levels = {"image": Level(in_channels, 1)}
        for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if i:
                parts.append(nn.Sequential(LayerNorm2d(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)))
            parts.append(nn.Sequential(*(Block(width, drops.pop(0)) for _ in range(depth))))
            self.levels[f"c{i + 2}"] = Level(width, 4 * 2**i)
        self.features = nn.Sequential(*parts)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.embedding = widths[-1]
        last = nn.Linear(self.embedding, classes)
        self.classifier = nn.Sequential(LayerNorm2d(self.embedding), nn.Flatten(), last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The four stages, each with the stem or the downsampling before it."""
        parts = list(self.features)
        return {f"c{i + 2}": parts[2 * i : 2 * i + 2] for i in range(4)}

    def top(self) -> Top:
        """Global average pooling, layer norm, one linear layer."""
        *norm, last = self.classifier
        return Top("c5", self.embedding, nn.Sequential(self.avgpool, *norm), last)


def _build(
    name: str,
    depth: int,
    width: int,
    stochastic_depth: float,
    weights: str | None,
    in_channels: int,
    classes: int,
) -> ConvNeXt:
    widths = [width * 2**i for i in range(4)]
    backbone = ConvNeXt((3, 3, depth, 3), widths, stochastic_depth, in_channels, classes)
    options = {"in_channels": in_channels, "classes": classes, "stochastic_depth": stochastic_depth}
    return load(backbone, name, weights, options)


def convnext_tiny(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.1
) -> ConvNeXt:
    """ConvNeXt-T, 29 million parameters."""
    return _build("convnext_tiny", 9, 96, stochastic_depth, weights, in_channels, classes)


def convnext_small(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.4
) -> ConvNeXt:
    """ConvNeXt-S, 50 million parameters."""
    return _build("convnext_small", 27, 96, stochastic_depth, weights, in_channels, classes)


def convnext_base(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.5
) -> ConvNeXt:
    """ConvNeXt-B, 89 million parameters."""
    return _build("convnext_base", 27, 128, stochastic_depth, weights, in_channels, classes)


def convnext_large(
    weights: str | None = None, *, in_channels: int = 3, classes: int = 1000, stochastic_depth: float = 0.5
) -> ConvNeXt:
    """ConvNeXt-L, 198 million parameters."""
    return _build("convnext_large", 27, 192, stochastic_depth, weights, in_channels, classes)
