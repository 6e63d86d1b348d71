"""SSDLite: SSD whose extra layers and predictors are depthwise separable, on a MobileNet at 320 pixels.

Sandler et al. 2018, arXiv:1801.04381, section 6.2; on MobileNetV3 Howard et al. 2019, arXiv:1905.02244, section 6.3.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from retinue.backbones.backbone import Backbone, Features, is_norm
from retinue.datasets.targets import ClassMap, Pictures, Target
from retinue.tasks.detection.ssd import SSD

LAYER = partial(
    Conv2dNormActivation,
    norm_layer=partial(nn.BatchNorm2d, eps=0.001, momentum=0.03),
    activation_layer=nn.ReLU6,
)


class SSDLite(SSD):
    """As `SSD`, with settings of its own.

    By default it reads where a MobileNet is expanded before its last stride (its C4) and its c5, elsewhere c4 and c5;
    scales are spread from 0.2 to 0.95, and every map has every ratio.
    """

    default_side: ClassVar[int] = 320

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        extra_channels: Sequence[int] = (512, 256, 256, 128),
        every_ratio: bool = True,
        candidates: int = 300,
        zoom_out: float = 1.0,
        score_threshold: float = 0.001,
        nms_iou: float = 0.55,
        detections: int = 300,
        colour: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(
            backbone,
            classes,
            extra_channels=extra_channels,
            every_ratio=every_ratio,
            candidates=candidates,
            zoom_out=zoom_out,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            detections=detections,
            colour=colour,
            **settings,
        )

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone itself."""
        return backbone

    @staticmethod
    def default_levels(backbone: Backbone) -> list[str]:
        """As in `SSD`."""
        return [next((name for name in backbone.levels if name.startswith("expand")), "c4"), "c5"]

    @staticmethod
    def default_scales(maps: int) -> list[float]:
        """As in `SSD`: evenly, and the whole picture beyond the last map."""
        return [0.2 + 0.75 * i / max(1, maps - 1) for i in range(maps)] + [1.0]

    def extra_layer(self, inputs: int, outputs: int, strided: bool) -> nn.Module:
        """One extra map of half the side."""
        inner = outputs // 2
        layers = LAYER(inputs, inner, 1), LAYER(inner, inner, 3, 2, groups=inner), LAYER(inner, outputs, 1)
        return initialise(nn.Sequential(*layers))

    def predictor(self, inputs: int, outputs: int) -> nn.Module:
        """What says `outputs` values at each position of a map."""
        return initialise(
            nn.Sequential(LAYER(inputs, inputs, 3, groups=inputs), nn.Conv2d(inputs, outputs, 1))
        )

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """As in `SSD`. A picture by itself has no statistics, its smallest map one value a channel: norms hold then."""
        held = [m for m in self.modules() if is_norm(m) and m.training] if len(pictures) == 1 else []
        for norm in held:
            norm.eval()
        try:
            return super().losses(features, pictures, targets)
        finally:
            for norm in held:
                norm.train()


def initialise(network: nn.Module) -> nn.Module:
    """Convolutions from N(0, 0.03), biases of 0, in place. Returns it."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.03)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
