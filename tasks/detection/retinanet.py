"""RetinaNet (Lin et al. 2017, arXiv:1708.02002): every anchor of a pyramid is scored, and the easy ones count little.

The pyramid begins at c3 (section 4); its two coarser levels stand on p5, as in torchvision, or on c5, as published.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.fused import fuse
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target
from retinue.tasks.detection.anchors import Anchors
from retinue.tasks.detection.box_coding import clip, decode, encode, picture_sizes
from retinue.tasks.detection.dense_head import TowerNorm, best_above, last_layer, rows, tower
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.losses import class_truth, sigmoid_focal
from retinue.tasks.detection.matching import BETWEEN, assign, matched_rows
from retinue.tasks.detection.pyramid import on_whole_cells, own_levels, with_pyramid
from retinue.tasks.detection.regions import Found, best_of, refuse_nan
from retinue.tasks.recipe import check_range
from retinue.tasks.task import mean_over_ranks

LEVELS = ("c3", "c4", "c5")
PRIOR = 0.01
"""What every anchor's classes score first: else the many that are background would outweigh all in the first steps."""


class Scored(NamedTuple):
    """What the heads say of every anchor, one entry a map: logits (n, a, classes), codes (n, a, 4), anchors (a, 4)."""

    logits: list[Tensor]
    codes: list[Tensor]
    anchors: list[Tensor]


class RetinaNet(Detector):
    """Boxes of anchors on a pyramid, each class by its own sigmoid.

    pyramid_levels, pyramid_channels: of the pyramid, which has two coarser levels above them; coarser: made from the
    last of them ("p6p7") or of the trunk ("p6p7_c5"). tower_depth, tower_norm: of the convolutions before each answer.
    anchor_scale: side of an anchor in strides of its map; there are `octaves` sizes from it up to twice it, of each of
    the `anchor_ratios`, height over width. foreground_iou, background_iou: an anchor is an object from the one overlap
    with a true box on, or where none fits it better, and background below the other. focal_alpha, focal_gamma: of the
    loss. box_loss: "l1" of codes, or "giou" of boxes. candidates: of each map into suppression. The other settings are
    `Detector`'s.

    Raises DataError for settings out of range, or that the backbone cannot have.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        pyramid_levels: Sequence[str] = LEVELS,
        pyramid_channels: int = 256,
        coarser: Literal["p6p7", "p6p7_c5"] = "p6p7",
        tower_depth: int = 4,
        tower_norm: TowerNorm = "none",
        anchor_scale: float = 4.0,
        octaves: int = 3,
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        foreground_iou: float = 0.5,
        background_iou: float = 0.4,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        box_loss: Literal["l1", "giou"] = "l1",
        candidates: int = 1000,
        detections: int = 300,
        **settings: Any,
    ) -> None:
        super().__init__(classes, detections=detections, **settings)
        self.settings |= {
            "pyramid_levels": list(pyramid_levels),
            "pyramid_channels": pyramid_channels,
            "coarser": coarser,
            "tower_depth": tower_depth,
            "tower_norm": tower_norm,
            "anchor_scale": anchor_scale,
            "octaves": octaves,
            "anchor_ratios": list(anchor_ratios),
            "foreground_iou": foreground_iou,
            "background_iou": background_iou,
            "focal_alpha": focal_alpha,
            "focal_gamma": focal_gamma,
            "box_loss": box_loss,
            "candidates": candidates,
        }
        _check_settings(self.settings)
        self.preprocessing = on_whole_cells(backbone)
        self.levels = own_levels(backbone)
        strides = [backbone.levels[name].stride for name in self.levels]
        sizes = [[int(anchor_scale * s * 2 ** (i / octaves)) for i in range(octaves)] for s in strides]
        self.anchors = Anchors(sizes, anchor_ratios)
        self.channels, self.per_position = (
            backbone.levels[self.levels[0]].channels,
            self.anchors.per_position[0],
        )
        towers = [tower(self.channels, tower_depth, tower_norm) for _ in range(2)]
        self.class_head = nn.Sequential(*towers[0], self._class_layer())
        self.box_head = nn.Sequential(*towers[1], last_layer(self.channels, 4 * self.per_position))

    def _class_layer(self) -> nn.Conv2d:
        return last_layer(self.channels, len(self.classes) * self.per_position, PRIOR)

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone under a pyramid over its `pyramid_levels`, as far as it has them."""
        return with_pyramid(
            backbone,
            settings.get("pyramid_levels", LEVELS),
            settings.get("pyramid_channels", 256),
            settings.get("coarser", "p6p7"),
        )

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`."""
        self.class_head, self.box_head = (fuse(head, dtype) for head in (self.class_head, self.box_head))  # type: ignore[assignment]

    def forget_classes(self) -> None:
        """A new last layer of classes."""
        self.class_head[-1] = self._class_layer()

    def score(self, features: Features, pictures: Pictures) -> Scored:
        """Class logits and box codes of every anchor."""
        maps = [features[name] for name in self.levels]
        canvas = (pictures.pixels.shape[-2], pictures.pixels.shape[-1])
        grids = [(x.shape[-2], x.shape[-1]) for x in maps]
        return Scored(
            [rows(self.class_head(x), len(self.classes)) for x in maps],
            [rows(self.box_head(x), 4) for x in maps],
            self.anchors(canvas, grids, maps[0].device),
        )

    # Training

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`class` of all anchors but those between the thresholds, `box` of objects.

        Both are divided by the number of a picture's objects, 1 at least (section 4.1), and are means over pictures.
        """
        scored, settings = self.score(features, pictures), self.settings
        anchors, codes = torch.cat(scored.anchors), torch.cat(scored.codes, 1)
        limits = settings["foreground_iou"], settings["background_iou"]
        matched = torch.stack(
            [assign(anchors, t["boxes"], t.get("crowd"), *limits, every_truth=True) for t in targets]
        )
        positive = matched >= 0
        count = positive.sum(1).clamp(min=1)
        labels = torch.full_like(matched, -1)
        labels[positive] = matched_rows(matched, targets, "box_labels")
        wrong = sigmoid_focal(
            torch.cat(scored.logits, 1),
            class_truth(labels, len(self.classes)),
            settings["focal_alpha"],
            settings["focal_gamma"],
        )
        wrong = wrong.sum(2).where(matched != BETWEEN, 0).sum(1) / count
        picture, place = torch.where(positive)
        off = self._off(codes[picture, place], anchors[place], matched_rows(matched, targets, "boxes"))
        return {
            "class": mean_over_ranks(wrong.sum(), len(targets)),
            "box": mean_over_ranks((off / count[picture]).sum(), len(targets)),
        }

    def _off(self, codes: Tensor, anchors: Tensor, truth: Tensor) -> Tensor:
        """The loss (r,) of each object's box code."""
        if self.settings["box_loss"] == "giou":
            return generalized_box_iou_loss(decode(codes, anchors), truth)
        return F.l1_loss(codes.float(), encode(truth, anchors), reduction="none").sum(1)

    # Prediction

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels."""
        found = []
        for logits, codes, anchors in zip(*self.score(features, pictures)):
            refuse_nan(logits)
            refuse_nan(codes)
            best = best_above(logits.float().sigmoid(), self.score_threshold, self.settings["candidates"])
            boxes = decode(codes[best.picture, best.place], anchors[best.place])
            found.append((boxes, best.scores, best.labels, best.picture))
        boxes, scores, labels, picture = (torch.cat(parts) for parts in zip(*found))
        boxes = clip(boxes, picture_sizes(pictures.sizes, boxes)[picture])
        return best_of(
            boxes,
            scores,
            labels,
            picture,
            len(pictures),
            self.nms_iou,
            self.detections,
            smallest=0,
            first_label=0,
        )


def _check_settings(settings: dict[str, Any]) -> None:
    for name in ("foreground_iou", "background_iou", "focal_alpha"):
        check_range(settings, name, 0, 1)
    check_range(settings, "focal_gamma", 0, 100)
    check_range(settings, "tower_depth", 0, 100)
    check_range(settings, "octaves", 1, 100)
    check_range(settings, "candidates", 1, 10**6)
    if settings["background_iou"] > settings["foreground_iou"]:
        raise DataError(
            f"background_iou={settings['background_iou']} is above foreground_iou={settings['foreground_iou']}"
        )
    for name, choices in (
        ("tower_norm", ("none", "group")),
        ("box_loss", ("l1", "giou")),
        ("coarser", ("p6p7", "p6p7_c5")),
    ):
        if settings[name] not in choices:
            raise DataError(f"{name}={settings[name]!r}: use one of {', '.join(choices)}")
    for name in ("anchor_scale", "anchor_ratios"):
        values = [settings[name]] if name == "anchor_scale" else settings[name]
        if not values or not all(0 < value < 1e5 for value in values):
            raise DataError(f"{name}={settings[name]}: give one or more numbers above 0")
