"""YOLOX (Ge et al. 2021, arXiv:2107.08430): YOLO without anchors, classes and boxes from separate branches.

Each cell of three maps predicts one box: its centre's place from the cell's corner and the logarithms of its sides, in
strides; whether there is an object; and its class. `simota.py` says which cell learns which true box.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.csp_darknet import CSPDarknet
from retinue.backbones.pafpn import LEVELS, PAFPN
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target, Transform
from retinue.datasets.transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    Either,
    HorizontalFlip,
    Letterbox,
    MixUp,
    Mosaic,
    RandomAffine,
)
from retinue.tasks.detection.batch_truth import in_crowd
from retinue.tasks.detection.decoupled_head import Cells, DecoupledHead, Raw, cells_of
from retinue.tasks.detection.detector import Detector, check_range
from retinue.tasks.detection.regions import Found, best_of, refuse_nan
from retinue.tasks.detection.simota import Truth, padded_truth, simota
from retinue.tasks.task import mean_over_ranks

DIVISOR = 32
BOX_WEIGHT = 5.0


class YOLOX(Detector):
    """YOLO without anchors, fast on a CPU: nano, tiny, s, m, l, x by `backbone=csp_darknet_...`.

    depth_multiple, width_multiple, depthwise: of the path aggregation between a plain backbone and the head; by
    default a CSPDarknet's own, 0.33, 0.5 and false else.
    Training: mosaic, share of the pictures that are four on one canvas, turned by up to `degrees`, sheared by up to
    `shear`, zoomed by factors from `zoom`; mixup, share of those that another picture lies over; close_mosaic, the last
    epochs without them, in which box codes have an L1 loss too; scales: range of the batch's side, as shares of
    `imgsz`; hue: strength of its jitter, a share of the circle. The other settings are `Detector`'s.

    Raises DataError for settings out of range, or that differ from those of the path aggregation that there is.
    """

    square: ClassVar[bool] = True
    groups_by_aspect: ClassVar[bool] = False
    default_side: ClassVar[int] = 640

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        depth_multiple: float | None = None,
        width_multiple: float | None = None,
        depthwise: bool | None = None,
        mosaic: float = 1.0,
        mixup: float = 0.0,
        close_mosaic: int = 15,
        degrees: float = 10.0,
        shear: float = 2.0,
        zoom: tuple[float, float] = (0.5, 1.5),
        hue: float = 0.015,
        score_threshold: float = 0.01,
        nms_iou: float = 0.65,
        scales: tuple[float, float] = (0.7, 1.3),
        colour: float = 0.3,
        **settings: Any,
    ) -> None:
        super().__init__(
            classes,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            scales=scales,
            colour=colour,
            **settings,
        )
        sizes = {
            "depth_multiple": depth_multiple,
            "width_multiple": width_multiple,
            "depthwise": depthwise,
        }
        self.settings |= sizes | {
            "mosaic": mosaic,
            "mixup": mixup,
            "close_mosaic": close_mosaic,
            "degrees": degrees,
            "shear": shear,
            "zoom": list(zoom),
            "hue": hue,
        }
        _check_settings(self.settings)
        neck = _neck_of(backbone, sizes)
        backbone.prepare_for(replace(backbone.preprocessing, divisor=DIVISOR))
        self.preprocessing = backbone.preprocessing
        self.last_epochs = close_mosaic
        self.levels = LEVELS
        self.strides = tuple(backbone.levels[name].stride for name in LEVELS)
        channels = [backbone.levels[name].channels for name in LEVELS]
        self.head = DecoupledHead(channels, channels[0], len(classes), neck.depthwise)

    @classmethod
    def recipe(cls, pretrained: bool) -> dict[str, Any]:
        """The paper's 300 epochs with averaged weights; from weights fewer, at one rate, as neck and head have them."""
        options = {"batch": 16, "epochs": 300, "lr": "0.001", "warmup": 5.0, "ema": 0.9998, "clip": 35.0}
        if pretrained:
            options |= {"epochs": 40, "warmup": 1.0, "ema": 0.998, "backbone_lr": 0.0005}
        return options | {"backbone": "csp_darknet_s"}

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone with path aggregation over its c3, c4 and c5; DataError where it has not all of them."""
        if isinstance(backbone, PAFPN):
            return backbone
        if missing := {"c3", "c4", "c5"} - backbone.levels.keys():
            raise DataError(
                f"yolox reads c3, c4 and c5; {backbone.architecture} has no {', '.join(sorted(missing))}"
            )
        like = backbone if isinstance(backbone, CSPDarknet) else None
        default = (like.depth, like.width, like.depthwise) if like else (0.33, 0.5, False)
        sizes = [settings.get(name) for name in ("depth_multiple", "width_multiple", "depthwise")]
        depth, width, depthwise = (own if asked is None else asked for asked, own in zip(sizes, default))
        if not (0 < depth <= 10 and 1 / 256 <= width <= 10):
            raise DataError(f"depth_multiple={depth}, width_multiple={width}: above 0, at most 10")
        return PAFPN(backbone, depth=depth, width=width, depthwise=bool(depthwise))

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`box` and `class` of the cells that stand for objects, `objectness` of all; `l1` in the last epochs.

        Sums over the batch's cells, divided by the number of those that stand for objects.
        """
        raw, cells = self.score(features)
        boxes, truth = cells.decode(raw.codes), padded_truth(targets)
        matched = simota(boxes, raw.logits, raw.objectness, cells.centres, cells.strides, truth)
        positive = matched >= 0
        ignored = in_crowd(cells.boxes[None], targets) & ~positive
        losses = object_losses(raw, boxes, truth, matched)
        if self.late:
            losses["l1"] = l1_loss(raw, cells, truth, matched)
        wrong = F.binary_cross_entropy_with_logits(raw.objectness, positive.float(), reduction="none")
        losses["objectness"] = wrong.where(~ignored, 0.0).sum()
        return {name: mean_over_ranks(total, positive.sum(), least=1) for name, total in losses.items()}

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels: of each cell its best class, scored by class times objectness."""
        raw, cells = self.score(features)
        objects = raw.objectness.sigmoid()
        refuse_nan(objects)
        picture, cell = torch.where(objects > self.score_threshold)  # a score is no larger than this
        logits, labels = raw.logits[picture, cell].max(1)
        scores, boxes = (
            logits.sigmoid() * objects[picture, cell],
            cells.decode(raw.codes[picture, cell], cell),
        )
        refuse_nan(scores)
        refuse_nan(boxes)
        (good,) = torch.where(scores > self.score_threshold)
        found = boxes[good], scores[good], labels[good], picture[good]
        return best_of(*found, len(pictures), self.nms_iou, self.detections)

    def score(self, features: Features) -> tuple[Raw, Cells]:
        """What the head says of every cell, and where the cells are."""
        maps = [features[name] for name in LEVELS]
        grids = tuple((m.shape[2], m.shape[3], stride) for m, stride in zip(maps, self.strides))
        return self.head(maps), cells_of(grids, str(maps[0].device))

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; the last layers compute in float32."""
        self.head = self.head.fused(dtype)  # type: ignore[assignment]

    def forget_classes(self) -> None:
        """New last layers of the class branch."""
        self.head.forget_classes()

    # Around training

    def prepare(self, pictures: Pictures, targets: list[Target]) -> tuple[Pictures, list[Target]]:
        """The batch at another size, a multiple of 32 pixels, drawn from `scales`."""
        low, high = self.settings["scales"]
        factor = low + (high - low) * float(torch.rand(())) if low < high else low
        old = pictures.pixels.shape[2:]
        new = [max(DIVISOR, round(n * factor / DIVISOR) * DIVISOR) for n in old]
        if list(old) == new:
            return pictures, targets
        y, x = (n / o for n, o in zip(new, old))
        pixels = F.interpolate(pictures.pixels, new, mode="bilinear", align_corners=False)
        grown = torch.tensor([x, y, x, y], device=pixels.device)
        back = torch.diag(torch.tensor([1 / x, 1 / y, 1], dtype=pictures.to_file.dtype))
        pictures = replace(
            pictures,
            pixels=pixels,
            sizes=[(round(h * y), round(w * x)) for h, w in pictures.sizes],
            to_file=pictures.to_file @ back.to(pictures.to_file.device),
        )
        return pictures, [{**target, "boxes": target["boxes"] * grown} for target in targets]

    def train_transform(self, side: int) -> Transform:
        """Mosaic, turned and zoomed, perhaps under another picture, or a square around one; mirrored, recoloured."""
        settings, pad = self.settings, self.pad
        turned = RandomAffine(
            settings["degrees"], (0.05, 0.05), tuple(settings["zoom"]), settings["shear"], pad=pad
        )
        four = Mosaic(2 * side, (0.5, 0.5), pad=pad)
        beside = Compose(
            [self.eval_transform(side), HorizontalFlip(), RandomAffine(scale=(0.5, 1.5), pad=pad)]
        )
        several = Compose([four, turned, CenterCrop(side, pad), MixUp(beside, settings["mixup"])])
        return Compose([Either(settings["mosaic"], several, self.eval_transform(side)), *self.looks()])

    def late_transform(self, side: int) -> Transform:
        """A square around one picture, mirrored and recoloured."""
        return Compose([self.eval_transform(side), *self.looks()])

    def colours(self, strength: float) -> Transform:
        """As in `Detector`, and of other hues."""
        return ColorJitter(strength, strength, strength, self.settings["hue"])

    def eval_transform(self, side: int) -> Transform:
        """A longer side of `side`, without antialiasing, at the top left of a square; sides are rounded down."""
        return Letterbox(side, self.pad, antialias=self.preprocessing.antialias, down=True)

    @property
    def pad(self) -> float:
        """Light beside the pictures, in [0, 1]."""
        return sum(self.preprocessing.pad) / len(self.preprocessing.pad)


def object_losses(raw: Raw, boxes: Tensor, truth: Truth, matched: Tensor) -> dict[str, Tensor]:
    """`box`, 5 (1 - IoU^2), and `class`, cross entropy against the IoU in the place of 1; sums over matched cells."""
    picture, cell = torch.where(matched >= 0)
    row = matched[picture, cell]
    overlap = paired_iou(boxes[picture, cell], truth.boxes[picture, row])
    wanted = F.one_hot(truth.labels[picture, row], raw.logits.shape[2]) * overlap.detach()[:, None]
    wrong = F.binary_cross_entropy_with_logits(raw.logits[picture, cell], wanted, reduction="sum")
    return {"box": BOX_WEIGHT * (1 - overlap.square()).sum(), "class": wrong}


def l1_loss(raw: Raw, cells: Cells, truth: Truth, matched: Tensor) -> Tensor:
    """The sum of |code - true code| over matched cells."""
    picture, cell = torch.where(matched >= 0)
    wanted = cells.encode(truth.boxes[picture, matched[picture, cell]], cell)
    return (raw.codes[picture, cell] - wanted).abs().sum()


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(m,): the IoU of each of boxes (m, 4) with the one of `others` (m, 4) beside it."""
    common = (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])).clamp(
        min=0
    )
    common_area = common.prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, others)]
    return common_area / (areas[0] + areas[1] - common_area).clamp(min=1e-9)


def _neck_of(backbone: Backbone, sizes: dict[str, Any]) -> PAFPN:
    """The backbone, which must be a PAFPN of these sizes, where they are given."""
    if not isinstance(backbone, PAFPN):
        raise DataError("yolox stands on path aggregation: YOLOX.trunk_for(backbone, settings) gives it one")
    for name, own in zip(sizes, (backbone.depth, backbone.width, backbone.depthwise)):
        if sizes[name] is not None and sizes[name] != own:
            raise DataError(f"{name}={sizes[name]}: the model that is begun with has {own}; leave it out")
    return backbone


def _check_settings(settings: dict[str, Any]) -> None:
    for name, most in (("mosaic", 1), ("mixup", 1), ("hue", 0.5), ("degrees", 180), ("shear", 80)):
        check_range(settings, name, 0, most)
    check_range(settings, "close_mosaic", 0, 10**6)
    zoom = settings["zoom"]
    if len(zoom) != 2 or not 0 < zoom[0] <= zoom[1] <= 100:
        raise DataError(f"zoom={zoom}: two factors, 0 < least <= most")
