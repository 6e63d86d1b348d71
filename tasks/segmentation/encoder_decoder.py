"""Encoder-decoder with skips (Ronneberger et al. 2015, arXiv:1505.04597), on any backbone: the practical choice.

The backbone is the contracting path; the decoder of `tasks/dense.py` wins the resolution back, step by step, from the
maps that the backbone had on the way.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from retinue.backbones.backbone import Backbone, Features, Level
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.dense import Decoder, PyramidPooling, Upsampling, conv_norm, plain_levels, whole_cells
from retinue.tasks.segmentation.segmenter import Segmenter, classifier

WIDTHS = (256, 128, 64, 48)
"""Channels after each step, from the coarsest on."""


class EncoderDecoder(Segmenter):
    """A class at every pixel, by a U-Net on a pretrained backbone.

    levels: the backbone's maps that are read, finest first; by default its plain pyramid, from stride 2 on. widths:
    the decoder's channels after each step, from the coarsest on. upsampling: bilinear or nearest. depth: convolutions
    a step. context: put the coarsest map's means over 1, 2, 3 and 6 cells beside it (pyramid pooling). dropout: of
    whole channels before the last layer. The other settings are `Segmenter`'s.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        levels: Sequence[str] | None = None,
        widths: Sequence[int] | None = None,
        upsampling: Upsampling = "bilinear",
        depth: int = 2,
        context: bool = True,
        dropout: float = 0.1,
        **settings: Any,
    ) -> None:
        names = _levels(backbone, levels)
        whole_cells(backbone, backbone.levels[names[-1]].stride)
        super().__init__(backbone, classes, **settings)
        widths = list(widths or (WIDTHS + WIDTHS[-1:] * len(names))[: len(names) - 1])
        self.settings |= {
            "levels": names,
            "widths": widths,
            "upsampling": upsampling,
            "depth": depth,
            "context": context,
            "dropout": dropout,
        }
        _check(self.settings)
        self.levels = tuple(names)
        declared = {name: backbone.levels[name] for name in names}
        self.context: nn.Module = nn.Identity()
        if context:
            pooling = PyramidPooling(declared[names[-1]].channels, max(1, widths[0] // 4))
            self.context = nn.Sequential(pooling, conv_norm(pooling.channels, widths[0], 1))
            declared[names[-1]] = Level(widths[0], declared[names[-1]].stride)
        self.decoder = Decoder(declared, widths, upsampling, depth)
        self.dropout = dropout
        self.classifier = classifier(self.decoder.channels, len(classes), dropout)

    def forget_classes(self) -> None:
        """A new last layer."""
        self.classifier = classifier(self.decoder.channels, len(self.classes), self.dropout)

    def logits(self, features: Features) -> list[Tensor]:
        """Logits at the stride of the finest level."""
        coarsest = self.levels[-1]
        features = {**features, coarsest: self.context(features[coarsest])}
        return [self.classifier(self.decoder(features))]


def _levels(backbone: Backbone, asked: Sequence[str] | None) -> list[str]:
    """The levels that are read, finest first, however they are given."""
    names = list(asked) if asked else plain_levels(backbone)
    if unknown := [name for name in names if name not in backbone.levels]:
        raise DataError(
            f"levels: the backbone has no {', '.join(unknown)}, only {', '.join(backbone.levels)}"
        )
    if len(names) < 2:
        raise DataError(
            f"levels={','.join(names)}: an encoder-decoder reads at least two maps; this backbone has "
            f"{', '.join(backbone.levels)}"
        )
    return sorted(names, key=lambda name: backbone.levels[name].stride)


def _check(settings: dict[str, Any]) -> None:
    levels, widths = settings["levels"], settings["widths"]
    if len(widths) != len(levels) - 1 or min(widths) < 1:
        raise DataError(
            f"widths={','.join(map(str, widths))}: {len(levels)} levels ({', '.join(levels)}) have {len(levels) - 1} "
            "steps; give a number of channels for each"
        )
    if settings["upsampling"] not in ("bilinear", "nearest"):
        raise DataError(f"upsampling={settings['upsampling']}: say bilinear or nearest")
    if settings["depth"] < 1 or not 0 <= settings["dropout"] < 1:
        raise DataError(
            f"depth={settings['depth']}, dropout={settings['dropout']}: depth is at least 1, dropout in [0, 1)"
        )
