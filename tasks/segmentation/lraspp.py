"""Lite reduced ASPP (Howard et al. 2019, arXiv:1905.02244, section 6.4 and figure 10): a head for small trunks.

The deep map, narrowed, is gated by means over the picture, enlarged and judged; logits of a finer map are added. As in
torchvision, whose weights load, those means are over the whole map, not over large windows of it.
"""

from typing import Any

from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import conv_norm, dilated, resize
from retinue.tasks.segmentation.segmenter import Segmenter, classifier


class LRASPP(Segmenter):
    """A class at every pixel, by two maps of a small trunk.

    output_stride: strides of the backbone beyond this one become dilations. low: the finer map, by default the
    backbone's first of stride 8. high: the deep one, by default its last. width: channels that the deep map is narrowed
    to. The other settings are `Segmenter`'s.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        output_stride: int = 16,
        low: str | None = None,
        high: str | None = None,
        width: int = 128,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        self.settings |= {"output_stride": output_stride, "low": low, "high": high, "width": width}
        if width < 1:
            raise DataError(f"width={width}: at least one channel")
        self.levels = self.low, self.high = _levels(backbone, low, high)
        channels = [backbone.levels[name].channels for name in self.levels]
        self.cbr = conv_norm(channels[1], width, 1)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[1], width, 1, bias=False), nn.Sigmoid()
        )
        self.low_channels, self.width = channels[0], width
        self.forget_classes()

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone, dilated to `output_stride`."""
        return dilated(backbone, settings.get("output_stride", 16))

    def forget_classes(self) -> None:
        """New last layers."""
        self.low_classifier = classifier(self.low_channels, len(self.classes))
        self.high_classifier = classifier(self.width, len(self.classes))

    def logits(self, features: Features) -> list[Tensor]:
        """Logits at the stride of the finer map."""
        low, high = features[self.low], features[self.high]
        gated = self.cbr(high) * self.scale(high)
        return [self.low_classifier(low) + self.high_classifier(resize(gated, low.shape[-2:]))]


def _levels(backbone: Backbone, low: str | None, high: str | None) -> tuple[str, str]:
    """The finer and the deep level."""
    for setting, name in (("low", low), ("high", high)):
        if name is not None and name not in backbone.levels:
            raise DataError(f"{setting}={name}: the backbone has only {', '.join(backbone.levels)}")
    high = high or list(backbone.levels)[-1]
    finer = [name for name, level in backbone.levels.items() if level.stride >= 8 and name != high]
    if low is None and not finer:
        raise DataError(
            f"the backbone has no map of stride 8 before {high}: name a low level of {', '.join(backbone.levels)}"
        )
    return low or finer[0], high
