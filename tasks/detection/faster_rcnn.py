"""Faster R-CNN (Ren et al. 2015, arXiv:1506.01497): the trunk proposes its own regions, one network, four losses.

Approximate joint training (section 3.2, ii): proposals are constants for the second stage. Over a pyramid as in Lin
et al. 2016 (arXiv:1612.03144, section 4), over a plain trunk as published with VGG or, with res5 per region, ResNet.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fpn import FPN
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target
from retinue.tasks.detection.anchors import Anchors
from retinue.tasks.detection.fast_rcnn import FastRCNN
from retinue.tasks.detection.proposals import RegionProposalNetwork, Scored
from retinue.tasks.detection.regions import Found

OCTAVES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Sizes of the anchors of a single map, around `anchor_scale` times its stride: 32 to 512 pixels at stride 16."""


class FasterRCNN(FastRCNN):
    """Boxes of proposals that a region proposal network makes on the same maps.

    anchor_scale: side of a square anchor in strides of its map; a single map has five sizes around it. anchor_sizes:
    instead, sides in pixels, all of them on every map. anchor_ratios: height over width. proposals: at most so many a
    map before suppression and a picture after it, in training and at other times. rpn_depth: convolutions of its head.
    rpn_nms_iou, rpn_score_threshold: of proposals. rpn_sampled: anchors a picture that its losses are computed on.
    The other settings are `FastRCNN`'s.
    """

    inputs: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        anchor_scale: float = 8.0,
        anchor_sizes: Sequence[float] | None = None,
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        proposals: tuple[int, int] = (2000, 1000),
        rpn_depth: int = 1,
        rpn_nms_iou: float = 0.7,
        rpn_score_threshold: float = 0.0,
        rpn_sampled: int = 256,
        **settings: Any,
    ) -> None:
        super().__init__(backbone, classes, **settings)
        self.settings |= {
            "anchor_scale": anchor_scale,
            "anchor_sizes": list(anchor_sizes) if anchor_sizes is not None else None,
            "anchor_ratios": list(anchor_ratios),
            "proposals": list(proposals),
            "rpn_depth": rpn_depth,
            "rpn_nms_iou": rpn_nms_iou,
            "rpn_score_threshold": rpn_score_threshold,
            "rpn_sampled": rpn_sampled,
        }
        _check_settings(self.settings)
        extra = backbone.extra_levels if isinstance(backbone, FPN) else ()
        self.rpn_levels = (*self.region_levels, *extra)
        self.levels = self.rpn_levels
        sizes = [self._sizes(self.strides[name]) for name in self.rpn_levels]
        self.rpn = RegionProposalNetwork(
            self.region_channels,
            Anchors(sizes, anchor_ratios),
            depth=rpn_depth,
            top=(proposals[0], proposals[1]),
            nms_iou=rpn_nms_iou,
            score_threshold=rpn_score_threshold,
            sampled=rpn_sampled,
        )

    def _sizes(self, stride: int) -> list[float]:
        if self.settings["anchor_sizes"] is not None:
            return list(self.settings["anchor_sizes"])
        side = self.settings["anchor_scale"] * stride
        return [side] if len(self.rpn_levels) > 1 else [side * octave for octave in OCTAVES]

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`objectness` and `proposal_box` of sampled anchors, `class` and `box` of sampled regions."""
        scored = self.score(features, pictures)
        proposals = self.rpn.propose(scored, pictures.sizes)
        return self.rpn.losses(scored, targets) | self.learn(features, targets, proposals)

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels."""
        proposals = self.rpn.propose(self.score(features, pictures), pictures.sizes)
        return self.judge(features, pictures, proposals)

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`."""
        super().fuse(dtype)
        self.rpn.head = fuse(self.rpn.head, dtype)  # type: ignore[assignment]

    def score(self, features: Features, pictures: Pictures) -> Scored:
        """Objectness and box codes of every anchor."""
        canvas = (pictures.pixels.shape[-2], pictures.pixels.shape[-1])
        return self.rpn([features[name] for name in self.rpn_levels], canvas)


def _check_settings(settings: dict[str, Any]) -> None:
    proposals, depth, sampled = settings["proposals"], settings["rpn_depth"], settings["rpn_sampled"]
    if len(proposals) != 2 or min(*proposals, depth, sampled) < 1:
        raise DataError(
            f"proposals={proposals}, rpn_depth={depth}, rpn_sampled={sampled}: "
            f"proposals are two numbers (training, other times), all of them at least 1"
        )
    for name in ("rpn_nms_iou", "rpn_score_threshold"):
        if not 0 <= settings[name] <= 1:
            raise DataError(f"{name}={settings[name]}: {name} is from 0 to 1")
    for name in ("anchor_scale", "anchor_sizes", "anchor_ratios"):
        values = [settings[name]] if name == "anchor_scale" else settings[name]
        if values is not None and not (values and all(0 < value < 1e5 for value in values)):
            raise DataError(f"{name}={settings[name]}: give one or more numbers above 0")
