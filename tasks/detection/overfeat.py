"""OverFeat (Sermanet et al. 2013, arXiv:1312.6229): a classifier at every position and scale, each window with a box.

Straight from picture to boxes, without proposals. The classifier becomes convolutional (section 3.5) and is run over
the picture at several scales: each window says a class, background included, and a regressor on the same maps says
where the object of that window ends (section 4). Boxes of windows that agree are merged, their confidences added up
(section 4.3, `box_merging`).

    retinue train overfeat data=DIR weights=imagenet level=c4
    retinue eval RUN data=DIR regress=false merge=false

The second line judges the plain sliding window of the same weights: windows themselves as boxes, after suppression.

Deviations. Layers are trained together, not the regressor after the classifier on fixed features. The paper's last
pooling at nine offsets (section 3.3), which makes windows closer than the trunk's stride, is done on any trunk by
turning strides into dilations: the maps of all offsets are then one map, interlaced. The regressor is a single one for
all classes, which the paper found better than one a class (section 4.4, figure 9). The classifier has fc6 and fc7 of
VGG or AlexNet; where the backbone's own has only a mean, which forgets where in the window things are, it has two new
hidden layers as the regressor does: a 1x1 convolution, since trunks of today end in 1280 to 2048 channels, and one over
all cells of the window.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retinue.backbones.backbone import Backbone, Features
from retinue.datasets.targets import ClassMap, DataError, Pictures, Target
from retinue.tasks.classification.classification import classifier_top
from retinue.tasks.dense import dilated
from retinue.tasks.detection.box_coding import clip, picture_sizes
from retinue.tasks.detection.box_merging import merged
from retinue.tasks.detection.detector import Detector, check_range
from retinue.tasks.detection.matching import BELOW, BETWEEN, assign
from retinue.tasks.detection.regions import Found, best_of, refuse_nan, rows_of
from retinue.tasks.detection.sampling import sample
from retinue.tasks.sliding import as_sliding, fuse_sliding
from retinue.tasks.task import mean_over_ranks

STRIDE = 16
TENTH = 0.1
"""The unit of the regressor's numbers, in sides of the window."""


class Seen(NamedTuple):
    """What the windows of all scales say of a batch.

    boxes: (w, 4) float32, the windows in canvas pixels, the same for all pictures. own: (n, w) bool, those that belong
    to each picture. logits: (n, w, 1 + classes), background first. edges: (n, w, 4), see `edges_of`.
    """

    boxes: Tensor
    own: Tensor
    logits: Tensor
    edges: Tensor


class OverFeat(Detector):
    """Boxes of a classifier's windows over the picture at several scales.

    window: side of the classifier's input, in pixels of each scale. zooms: the scales, as shares of the picture as it
    comes to the network, itself (1) first: a window covers objects of about `window / zoom` pixels. output_stride:
    distance of the windows at most; coarser strides of the backbone become dilations. level: the map that both layers
    read, what lies above it is taken off; default: that of the backbone's own classifier, with its fully connected
    layers, if any. width: channels of new hidden layers.
    sampled: windows a picture that the losses are computed on, `positive_fraction` of them objects at most, which are
    those with an IoU of `foreground_iou` or more with a true box, and the best window of each box. Background has less
    than `background_iou`; half of it are the windows that look least like it, the rest is drawn by lot (section 4.1).

    regress: boxes are the regressor's, otherwise the windows. merge: boxes are merged while their `match_score` is at
    most `merge_threshold`, from no more than `candidates` a class and picture; otherwise suppressed by `nms_iou`. The
    other settings are `Detector`'s; `score_threshold` is a window's.

    Raises DataError for settings out of range, or that the backbone cannot have.
    """

    default_side: ClassVar[int] = 480
    answer_settings: ClassVar[frozenset[str]] = Detector.answer_settings | {
        "regress", "merge", "merge_threshold", "candidates",
    }  # fmt: skip

    def __init__(
        self,
        backbone: Backbone,
        classes: ClassMap,
        *,
        window: int = 48,
        zooms: Sequence[float] = (1.0, 0.71, 0.5, 0.35, 0.25, 0.18, 0.125),
        output_stride: int = STRIDE,
        level: str | None = None,
        width: int = 256,
        sampled: int = 256,
        positive_fraction: float = 0.5,
        foreground_iou: float = 0.5,
        background_iou: float = 0.4,
        regress: bool = True,
        merge: bool = True,
        merge_threshold: float = 0.7,
        candidates: int = 300,
        **settings: Any,
    ) -> None:
        super().__init__(classes, **settings)
        self.settings |= {
            "window": window,
            "zooms": list(zooms),
            "output_stride": output_stride,
            "level": level,
            "width": width,
            "sampled": sampled,
            "positive_fraction": positive_fraction,
            "foreground_iou": foreground_iou,
            "background_iou": background_iou,
            "regress": regress,
            "merge": merge,
            "merge_threshold": merge_threshold,
            "candidates": candidates,
        }
        _check_settings(self.settings)
        self.window, self.zooms = window, tuple(zooms)
        top = classifier_top(backbone, 1 + len(classes))
        self.preprocessing = backbone.preprocessing
        self.level = _cut_above(backbone, level) if level else top.level
        self.levels, self.stride = (self.level,), backbone.levels[self.level].stride
        has_layers = not level and any(True for _ in top.embed.parameters())
        channels = backbone.levels[self.level].channels
        try:
            grid = backbone.output_sizes(window, window)[self.level][0]
            sliding = as_sliding(backbone, top, window) if has_layers else None
        except ValueError as error:
            raise DataError(f"window={window}: {error}") from None
        self.classifier = sliding or _layers(channels, width, grid, 1 + len(classes))
        self.regressor = _layers(channels, width, grid, 4)

    @classmethod
    def trunk_for(cls, backbone: Backbone, settings: dict[str, Any]) -> Backbone:
        """The backbone with its strides beyond `output_stride` made dilations."""
        return dilated(backbone, settings.get("output_stride", STRIDE))

    def attach(self, backbone: Backbone) -> None:
        """As in `Task`: the further scales are its passes."""
        self.attached = (backbone,)

    def fuse(self, dtype: torch.dtype) -> None:
        """As in `Task`; scores and edges are computed in float32."""
        self.classifier = fuse_sliding(self.classifier, dtype)
        self.regressor = fuse_sliding(self.regressor, dtype)

    def forget_classes(self) -> None:
        """A new last layer of the classifier; the regressor knows no classes."""
        last = self.classifier[-1]
        assert isinstance(last, nn.Conv2d), "what a classifier ends in"
        self.classifier[-1] = nn.Conv2d(last.in_channels, 1 + len(self.classes), 1)

    def look(self, features: Features, pictures: Pictures) -> Seen:
        """Every window at every scale."""
        canvas = (pictures.pixels.shape[-2], pictures.pixels.shape[-1])
        sizes = picture_sizes(pictures.sizes, pictures.pixels)
        boxes, own, logits, edges = [], [], [], []
        for zoom in self.zooms:
            size = (max(1, round(canvas[0] * zoom)), max(1, round(canvas[1] * zoom)))
            maps = self._maps(features, pictures.pixels, size)
            said = self.classifier(maps)
            scale = (size[0] / canvas[0], size[1] / canvas[1])
            grid = (said.shape[-2], said.shape[-1])
            boxes.append(windows(grid, self.stride, self.window, scale, said.device))
            own.append(own_windows(boxes[-1], grid, sizes))
            logits.append(said.flatten(2).mT)
            edges.append(self.regressor(maps).flatten(2).mT)
        return Seen(torch.cat(boxes), torch.cat(own, 1), torch.cat(logits, 1), torch.cat(edges, 1))

    def _maps(self, features: Features, pixels: Tensor, size: tuple[int, int]) -> Tensor:
        """The backbone's map of the pictures at another size, which is then padded to a window at least."""
        missing = [max(0, self.window - side) for side in size]
        if size == tuple(pixels.shape[-2:]) and not any(missing):
            return features[self.level]
        small = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        if any(missing):
            canvas = torch.tensor(self.preprocessing.pad).to(small).view(-1, 1, 1)
            canvas = canvas.repeat(len(small), 1, size[0] + missing[0], size[1] + missing[1])
            canvas[..., : size[0], : size[1]] = small
            small = canvas
        return self.attached[0](small, self.levels)[self.level]

    # Training

    def losses(self, features: Features, pictures: Pictures, targets: list[Target]) -> dict[str, Tensor]:
        """`class` of sampled windows, and `box`, of those that see an object."""
        seen, settings = self.look(features, pictures), self.settings
        with torch.no_grad():
            matched = torch.stack(
                [self._assigned(seen, own, target) for own, target in zip(seen.own, targets)]
            )
            offence = 1 - seen.logits.float().softmax(2)[..., 0]
            chosen = sample(
                matched >= 0,
                matched == BELOW,
                settings["sampled"],
                settings["positive_fraction"],
                offence,
            )
        labels = torch.cat(
            [rows_of(t["box_labels"], rows[of]) for t, rows, of in zip(targets, matched, chosen)]
        )
        truth = torch.cat([rows_of(t["boxes"], rows[of]) for t, rows, of in zip(targets, matched, chosen)])
        labels = torch.where(matched[chosen] >= 0, labels + 1, 0)
        boxes = seen.boxes.expand(len(chosen), -1, -1)[chosen]
        return window_losses(seen.logits[chosen], seen.edges[chosen], labels, edges_of(truth, boxes))

    def _assigned(self, seen: Seen, own: Tensor, target: Target) -> Tensor:
        """The true box that each window (w,) of a picture stands for, BELOW or BETWEEN; others' windows are BETWEEN."""
        high, low = self.settings["foreground_iou"], self.settings["background_iou"]
        matched = torch.full((len(own),), BETWEEN, device=own.device)
        matched[own] = assign(seen.boxes[own], target["boxes"], target.get("crowd"), high, low, True)
        return matched

    # Prediction

    def find(self, features: Features, pictures: Pictures) -> Found:
        """The objects of a batch, in canvas pixels."""
        seen, settings = self.look(features, pictures), self.settings
        refuse_nan(seen.logits)
        refuse_nan(seen.edges)
        scores = seen.logits.float().softmax(2)[..., 1:] * seen.own[..., None]
        picture, window, labels = torch.where(scores > self.score_threshold)
        boxes, scores = seen.boxes[window], scores[picture, window, labels]
        if settings["regress"]:
            boxes = boxes_of(seen.edges[picture, window], boxes)
        boxes = clip(boxes, picture_sizes(pictures.sizes, boxes)[picture])
        candidates, count = (boxes, scores, labels, picture), len(pictures)
        if not settings["merge"]:
            return best_of(*candidates, count, self.nms_iou, self.detections)
        threshold, most = settings["merge_threshold"], settings["candidates"]
        return merged(*candidates, count, threshold, most, self.detections)


# Windows and what is told relative to them


def windows(
    grid: tuple[int, int], stride: int, side: int, scale: tuple[float, float], device: torch.device
) -> Tensor:
    """Squares of `side` pixels, `stride` apart, (rows * columns, 4) float32 x1 y1 x2 y2, divided by `scale` (y, x).

    >>> windows((1, 2), 16, 48, (0.5, 0.5), torch.device("cpu")).tolist()
    [[0.0, 0.0, 96.0, 96.0], [32.0, 0.0, 128.0, 96.0]]
    """
    y, x = (torch.arange(count, dtype=torch.float32, device=device) * stride for count in grid)
    y, x = (place.flatten() for place in torch.meshgrid(y, x, indexing="ij"))
    corners = torch.stack([x, y, x + side, y + side], 1)
    return corners / corners.new_tensor([scale[1], scale[0], scale[1], scale[0]])


def own_windows(boxes: Tensor, grid: tuple[int, int], sizes: Tensor) -> Tensor:
    """Which of one scale's windows (w, 4), of `grid` rows and columns, pictures (n, 2) of height, width have; (n, w).

    In either direction the first, and the others up to the first that reaches the picture's end.
    """
    table = boxes.view(*grid, 4)
    rows, columns = _reaching(table[:, 0, 3], sizes[:, :1]), _reaching(table[0, :, 2], sizes[:, 1:])
    return (rows[:, :, None] & columns[:, None]).flatten(1)


def _reaching(ends: Tensor, length: Tensor) -> Tensor:
    """(n, k) bool, of ends (k,) in order those whose predecessors lie short of the lengths (n, 1)."""
    before = ends.roll(1)
    before[:1] = -1
    return before < length - 1e-3


def edges_of(boxes: Tensor, windows: Tensor) -> Tensor:
    """How far the edges of boxes (..., 4) lie from those of their windows (..., 4), in tenths of the windows' sides.

    The paper's regressor gives "the coordinates for the bounding box edges" in the window's frame; from its own edges
    on, a regressor that knows nothing answers with the window.
    """
    return (boxes.float() - windows) / (TENTH * _sides(windows))


def boxes_of(edges: Tensor, windows: Tensor) -> Tensor:
    """The inverse of `edges_of`: boxes (..., 4) float32."""
    return windows + edges.float() * (TENTH * _sides(windows))


def window_losses(logits: Tensor, edges: Tensor, labels: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """`class`, the mean cross entropy of windows, and `box`, the mean squared error of the edges where an object is.

    logits: (r, 1 + classes), background first. edges: (r, 4). labels: (r,) int64, 0 is background. truth: (r, 4), read
    where there is an object.
    """
    wrong = F.cross_entropy(logits.float(), labels, reduction="sum")
    positive = labels > 0
    off = F.mse_loss(edges[positive].float(), truth[positive], reduction="sum")
    return {"class": mean_over_ranks(wrong, len(labels)), "box": mean_over_ranks(off, 4 * positive.sum())}


def _sides(windows: Tensor) -> Tensor:
    """Width, height, width, height of windows (..., 4)."""
    return (windows[..., 2:] - windows[..., :2]).repeat(*(1,) * (windows.dim() - 1), 2)


def _layers(inputs: int, width: int, grid: int, outputs: int) -> nn.Sequential:
    """Maps of windows of `grid` x `grid` cells -> `outputs` each, by two hidden layers, the second one on all cells."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, grid),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, outputs, 1),
    )


def _cut_above(backbone: Backbone, level: str) -> str:
    """Take off the backbone's stages above a level, of which nothing is read; DataError where it has none such."""
    names = list(backbone.stages())
    if level not in names:
        raise DataError(f"level={level}: the backbone has {', '.join(names)}")
    for name in names[: names.index(level) : -1]:
        backbone.cut(name)
    return level


def _check_settings(settings: dict[str, Any]) -> None:
    for name in ("positive_fraction", "foreground_iou", "background_iou"):
        check_range(settings, name, 0, 1)
    for name in ("window", "width", "sampled", "candidates"):
        check_range(settings, name, 1, 10**6)
    check_range(settings, "merge_threshold", 0, 100)
    if settings["background_iou"] > settings["foreground_iou"]:
        raise DataError(
            f"background_iou={settings['background_iou']}: at most foreground_iou={settings['foreground_iou']}"
        )
    zooms = settings["zooms"]
    if not zooms or zooms[0] != 1 or not all(0 < zoom <= 1 for zoom in zooms):
        raise DataError(f"zooms={zooms}: shares of the picture, 1 first, all above 0 and at most 1")
