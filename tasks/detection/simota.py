"""SimOTA: which predictions learn which true box, by what it would cost them (Ge et al. 2021, arXiv:2107.08430, 2.1).

A cheap form of optimal transport assignment (Ge et al. 2021, arXiv:2103.14259): every true box takes as many
predictions as it is overlapped by, the cheapest ones, and a prediction that several want goes to one of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from retinue.datasets.targets import Target
from retinue.tasks.detection.batch_truth import own
from retinue.tasks.detection.matching import BELOW

RADIUS = 2.5
"""Of the square around a true box's centre that its predictions should come from, in strides of their maps."""
OVERLAP_WEIGHT, FAR = 3.0, 1e5
"""Of -log IoU in the cost, and what it costs not to lie both in the box and in that square."""
TOP = 10
"""The overlaps of so many best predictions add up to the number that a true box takes."""


class Truth(NamedTuple):
    """A batch's true boxes, filled up to one number g a picture.

    boxes: (n, g, 4) float32 in canvas pixels. labels: (n, g) int64. real: (n, g) bool, which of them there are.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor


def padded_truth(targets: Sequence[Target]) -> Truth:
    """The boxes that are learnt: no crowds, no slivers."""
    rows = [own(target) for target in targets]
    boxes = [target["boxes"][taken].float() for target, taken in zip(targets, rows)]
    labels = [target["box_labels"][taken] for target, taken in zip(targets, rows)]
    real = [torch.ones_like(each, dtype=torch.bool) for each in labels]
    return Truth(*(nn.utils.rnn.pad_sequence(part, batch_first=True) for part in (boxes, labels, real)))


@torch.no_grad()
def simota(
    boxes: Tensor, logits: Tensor, objectness: Tensor, centres: Tensor, strides: Tensor, truth: Truth
) -> Tensor:
    """For each prediction the row of its true box, or BELOW; (n, a) int64.

    boxes: (n, a, 4) float32, predicted, in canvas pixels. logits: (n, a, classes), objectness: (n, a), float32, before
    the sigmoid. centres: (a, 2) of the predictions' cells, and their strides (a,), in canvas pixels.
    """
    if not truth.boxes.shape[1]:
        return torch.full(objectness.shape, BELOW, dtype=torch.int64, device=boxes.device)
    inside, near = _places(truth, centres, strides)
    allowed = (inside | near).any(1, keepdim=True) & truth.real[..., None]
    overlap = box_iou(truth.boxes, boxes).where(allowed, 0.0)
    cost = class_cost(logits, objectness, truth.labels) - OVERLAP_WEIGHT * (overlap + 1e-8).log()
    cost = (cost + FAR * ~(inside & near)).where(allowed, torch.inf)
    return match_cheapest(cost, overlap)


def match_cheapest(cost: Tensor, overlap: Tensor) -> Tensor:
    """Dynamic k: each row (a true box) of `cost` (n, g, a) takes its k cheapest columns; (n, a) rows, or BELOW.

    k is the sum of the row's `TOP` largest overlaps (n, g, a), rounded down, at least 1. A column that several rows
    take goes to the row that is cheapest for it. An infinite cost is never taken.
    """
    most = min(TOP, cost.shape[2])
    counts = overlap.topk(most, dim=2).values.sum(2).int().clamp(min=1)
    cheapest, columns = cost.topk(most, dim=2, largest=False)
    taken = (torch.arange(most, device=cost.device) < counts[..., None]) & cheapest.isfinite()
    chosen = torch.zeros_like(cost, dtype=torch.bool).scatter_(2, columns, taken)
    takers = chosen.sum(1)
    rows = torch.where(takers > 1, cost.argmin(1), chosen.int().argmax(1))
    return torch.where(takers > 0, rows, BELOW)


def class_cost(logits: Tensor, objectness: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of every prediction as every true box's class, summed over classes; (n, g, a) float32.

    A prediction's probability of a class is sqrt(sigmoid(logit) sigmoid(objectness)); logarithms are at least -100.
    """
    hit = ((F.logsigmoid(logits) + F.logsigmoid(objectness)[..., None]) / 2).clamp(min=-100)
    miss = (-hit.exp()).log1p().clamp(min=-100)
    rows = labels[..., None].expand(-1, -1, logits.shape[1])
    gain = (hit - miss).transpose(1, 2).gather(1, rows)
    return -gain - miss.sum(2)[:, None]


def _places(truth: Truth, centres: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
    """Which cells' centres lie in each real box, and which in the square around its centre; (n, g, a) bool each."""
    x, y = centres.unbind(1)
    x1, y1, x2, y2 = truth.boxes[..., None].unbind(2)
    inside = torch.stack([x - x1, y - y1, x2 - x, y2 - y]).amin(0) > 0
    away = torch.maximum((x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs())
    real = truth.real[..., None]
    return inside & real, (away < RADIUS * strides) & real
