"""FCOS (Tian et al. 2019, arXiv:1904.01355): every position of a pyramid says how far away a box's four sides are.

As the authors improved it (arXiv:2006.09214): only the middle of a box stands for it, centreness is said beside the
box, and boxes are learnt by their overlap.
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
from retinue.tasks.detection.box_coding import clip, picture_sizes
from retinue.tasks.detection.dense_head import best_above, last_layer, rows, tower
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.losses import class_truth, sigmoid_focal
from retinue.tasks.detection.matching import BELOW, BETWEEN, matched_rows
from retinue.tasks.detection.pyramid import on_whole_cells, own_levels, with_pyramid
from retinue.tasks.detection.regions import Found, best_of, refuse_nan
from retinue.tasks.recipe import check_range
from retinue.tasks.task import mean_over_ranks

LEVELS = ("c3", "c4", "c5")
PRIOR = 0.01
"""What the classes of every position score first."""
REACH = 8
"""A map's positions stand for boxes whose farthest side is 4 to 8 strides away (section 3.2: 64 pixels at stride 8),
the finest one's for all nearer ones, the coarsest one's for all farther ones."""


class Scored(NamedTuple):
    """What the heads say of every position, one entry a map.

    logits: (n, a, classes). sides: (n, a, 4), the distances to the left, upper, right and lower side in strides.
    centreness: (n, a) logits. points: (a, 3), x and y in canvas pixels and the stride.
    """

    logits: list[Tensor]
    sides: list[Tensor]
    centreness: list[Tensor]
    points: list[Tensor]


class FCOS(Detector):
    """Boxes of positions on a pyramid, without anchors.

    pyramid_levels, pyramid_channels: of the pyramid, which has two coarser levels above them; coarser: made from the
    last of them ("p6p7") or of the trunk ("p6p7_c5"). tower_depth: of the convolutions before the answers. A position
    is an object if it lies in a true box, no farther than `centre_radius` strides from its centre. focal_alpha,
    focal_gamma: of the loss. candidates: of each map into suppression. A score is the root of the class's probability
    times centreness. The other settings are `Detector`'s.

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
        centre_radius: float = 1.5,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        candidates: int = 1000,
        nms_iou: float = 0.6,
        **settings: Any,
    ) -> None:
        super().__init__(classes, nms_iou=nms_iou, **settings)
        self.settings |= {
            "pyramid_levels": list(pyramid_levels),
            "pyramid_channels": pyramid_channels,
            "coarser": coarser,
            "tower_depth": tower_depth,
            "centre_radius": centre_radius,
            "focal_alpha": focal_alpha,
            "focal_gamma": focal_gamma,
            "candidates": candidates,
        }
        check_range(self.settings, "tower_depth", 0, 100)
        check_range(self.settings, "centre_radius", 0, 1e6)
        check_range(self.settings, "focal_alpha", 0, 1)
        check_range(self.settings, "focal_gamma", 0, 100)
        check_range(self.settings, "candidates", 1, 10**6)
        if coarser not in ("p6p7", "p6p7_c5"):
            raise DataError(f"coarser={coarser!r}: use p6p7 or p6p7_c5")
        self.preprocessing = on_whole_cells(backbone)
        self.levels = own_levels(backbone)
        self.strides = [backbone.levels[name].stride for name in self.levels]
        self.centres = Anchors([[stride] for stride in self.strides], (1.0,))
        self.channels = backbone.levels[self.levels[0]].channels
        towers = [tower(self.channels, tower_depth, "group", bias=True) for _ in range(2)]
        self.class_head = nn.Sequential(*towers[0], self._class_layer())
        self.box_tower = nn.Sequential(*towers[1])
        self.box_sides, self.centreness = last_layer(self.channels, 4), last_layer(self.channels, 1)

    def _class_layer(self) -> nn.Conv2d:
        return last_layer(self.channels, len(self.classes), PRIOR)

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
        for name in ("class_head", "box_tower", "box_sides", "centreness"):
            setattr(self, name, fuse(getattr(self, name), dtype))

    def forget_classes(self) -> None:
        """A new last layer of classes."""
        self.class_head[-1] = self._class_layer()

    def score(self, features: Features, pictures: Pictures) -> Scored:
        """Class logits, sides and centreness at every position."""
        maps = [features[name] for name in self.levels]
        boxes = [self.box_tower(x) for x in maps]
        return Scored(
            [rows(self.class_head(x), len(self.classes)) for x in maps],
            [rows(self.box_sides(x), 4).relu() for x in boxes],
            [rows(self.centreness(x), 1)[..., 0] for x in boxes],
            self._points(maps, (pictures.pixels.shape[-2], pictures.pixels.shape[-1])),
        )

    def _points(self, maps: Sequence[Tensor], canvas: tuple[int, int]) -> list[Tensor]:
        """A position is where the fields of the trunk's odd kernels have their centre: at whole strides from 0 on.

        torchvision has it so too; the paper's are half a stride farther.
        """
        grids = [(x.shape[-2], x.shape[-1]) for x in maps]
        squares = self.centres(canvas, grids, maps[0].device)
        return [torch.cat([(s[:, :2] + s[:, 2:]) / 2, s[:, 2:3] - s[:, :1]], 1) for s in squares]

    # Training

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`class` of all positions, `box` and `centreness` of objects, all divided by the number of objects."""
        scored = self.score(features, pictures)
        points, sides = torch.cat(scored.points), torch.cat(scored.sides, 1)
        reach = self._reach(scored.points)
        radius = self.settings["centre_radius"]
        matched = torch.stack(
            [assign_points(points, reach, t["boxes"], t.get("crowd"), radius) for t in targets]
        )
        positive = matched >= 0
        labels = torch.full_like(matched, -1)
        labels[positive] = matched_rows(matched, targets, "box_labels")
        wrong = sigmoid_focal(
            torch.cat(scored.logits, 1),
            class_truth(labels, len(self.classes)),
            self.settings["focal_alpha"],
            self.settings["focal_gamma"],
        )
        picture, place = torch.where(positive)
        truth = matched_rows(matched, targets, "boxes")
        off = generalized_box_iou_loss(box_around(points[place], sides[picture, place]), truth)
        said = torch.cat(scored.centreness, 1)[picture, place].float()
        true = centreness(sides_of(points[place], truth))
        uncentred = F.binary_cross_entropy_with_logits(said, true, reduction="sum")
        totals = {"class": wrong.sum(2)[matched != BETWEEN].sum(), "box": off.sum(), "centreness": uncentred}
        count = positive.sum()
        return {name: mean_over_ranks(total, count, least=1) for name, total in totals.items()}

    def _reach(self, points: Sequence[Tensor]) -> Tensor:
        """(a, 2): between which distances the farthest side of a position's box lies."""
        low, high = ([stride * part for stride in self.strides] for part in (REACH / 2, REACH))
        low[0], high[-1] = 0, torch.inf
        return torch.cat([p.new_tensor([a, b]).expand(len(p), 2) for p, a, b in zip(points, low, high)])

    # Prediction

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels."""
        found = []
        for logits, sides, centred, points in zip(*self.score(features, pictures)):
            for part in (logits, sides, centred):
                refuse_nan(part)
            scores = (logits.float().sigmoid() * centred.float().sigmoid()[..., None]).sqrt()
            best = best_above(scores, self.score_threshold, self.settings["candidates"])
            boxes = box_around(points[best.place], sides[best.picture, best.place])
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


# Points and sides


def sides_of(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances in pixels (..., 4) from points (..., 3) to the left, upper, right and lower sides of boxes (..., 4).

    Equation 1. Negative where the point lies outside. Both broadcast.
    """
    place = points[..., :2]
    return torch.cat([place - boxes[..., :2], boxes[..., 2:] - place], -1)


def box_around(points: Tensor, sides: Tensor) -> Tensor:
    """Boxes (r, 4) float32 from points (r, 3) and sides (r, 4) in the points' strides."""
    sides = sides.float() * points[:, 2:]
    return torch.cat([points[:, :2] - sides[:, :2], points[:, :2] + sides[:, 2:]], 1)


def centreness(sides: Tensor) -> Tensor:
    """1 at a box's centre, 0 at its border (equation 3): (r,) of sides (r, 4) that are not negative.

    >>> centreness(torch.tensor([[4.0, 1.0, 4.0, 4.0]]))
    tensor([0.5000])
    """
    pairs = sides.view(-1, 2, 2)  # left and upper, right and lower
    return (pairs.amin(1) / pairs.amax(1).clamp(min=1e-9)).prod(1).sqrt()


def assign_points(
    points: Tensor, reach: Tensor, boxes: Tensor, crowd: Tensor | None, radius: float
) -> Tensor:
    """Index into `boxes` (g, 4) for each of points (a, 3), or BELOW or BETWEEN; (a,) int64 (section 3.1 and 3.2).

    A point stands for a box in which it lies, no farther from its centre than `radius` strides in x and y, and whose
    farthest side is at a distance within `reach` (a, 2): of several the smallest. crowd (g,) bool: such boxes are never
    matched, and background in them is BETWEEN.
    """
    sides = sides_of(points[:, None], boxes)
    inside = sides.amin(2) > 0
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (points[:, None, :2] - centres).abs().amax(2) < radius * points[:, 2:]
    far = sides.amax(2)
    fits = inside & near & (far > reach[:, :1]) & (far < reach[:, 1:])
    hidden = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    if crowd is not None:
        fits, hidden = fits & ~crowd, (inside & crowd).any(1)
    none = torch.where(hidden, BETWEEN, BELOW)
    if not len(boxes):
        return none
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return torch.where(fits.any(1), area.where(fits, torch.inf).argmin(1), none)
