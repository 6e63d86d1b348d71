"""Non-maximum suppression by class, with torchvision's answer in less time where boxes are many."""

import numpy as np
import torch
import torchvision
from torch import Tensor

ROWS, COLUMNS = 256, 128
"""Sides of the blocks of overlaps: they fit the cache, and torch starts no threads for them."""

FEW = 1000
"""Up to so many boxes torchvision tells classes apart by shifting boxes, in float32, which rounds."""


def batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Of each group's boxes, those that overlap no better one by more than `threshold`, as indices, best first.

    boxes: (n, 4) x1 y1 x2 y2, scores: (n,), groups: (n,) int64: classes or pyramid levels of one picture.
    The indices and their order are those of `torchvision.ops.batched_nms`, whose kernel is taken as it is on a GPU and
    for few boxes. It then shifts the groups apart by multiples of the largest coordinate and float32 rounds the boxes:
    its very answer depends on the numbers of the groups, so ask picture by picture. Large groups go in blocks of
    falling score: each is reduced by torchvision's kernel, then one matrix of overlaps removes from the rest what the
    block suppresses.
    """
    boxes = boxes.float()
    if boxes.device.type != "cpu" or len(boxes) <= FEW:
        return torchvision.ops.batched_nms(boxes, scores, groups, threshold)
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    sizes = torch.unique_consecutive(groups[order], return_counts=True)[1].tolist()
    falling = -torch.arange(len(boxes), dtype=torch.float32)
    best = [
        rows[_suppress(group, falling, threshold)]
        for rows, group in zip(order.split(sizes), boxes[order].split(sizes))
    ]
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    kept[torch.cat(best)] = True
    indices = kept.nonzero()[:, 0]
    # torchvision's own expression: among equal scores its order is that of this very sort.
    return indices[scores[indices].sort(descending=True)[1]]


def _suppress(boxes: Tensor, falling: Tensor, threshold: float) -> Tensor:
    """Which of these boxes (n, 4), best first, stay: their indices. falling: scores for at least n boxes."""
    if len(boxes) <= ROWS:
        return torchvision.ops.nms(boxes, falling[: len(boxes)], threshold)
    x1, y1, x2, y2 = boxes.unbind(1)
    sides = torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])
    left, kept = torch.arange(len(boxes)), []
    threshold32 = _floor(threshold)
    while len(left):
        head = left[:ROWS]
        best = torchvision.ops.nms(boxes[head], falling[: len(head)], threshold)
        kept.append(head[best])
        rows, sides, left = sides[:, best], sides[:, ROWS:], left[ROWS:]
        dead = [_overlap(rows, part, threshold32).any(0) for part in sides.split(COLUMNS, dim=1)]
        alive = ~torch.cat(dead)
        left, sides = left[alive], sides[:, alive]
    return torch.cat(kept)


def _floor(threshold: float) -> float:
    """The largest float32 that is no larger. torchvision's kernel compares overlaps, float32, with the double itself:
    0.3 as a float32 is above 0.3, and suppresses."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-1)))


def _overlap(rows: Tensor, columns: Tensor, threshold: float) -> Tensor:
    """(r, c) bool: IoU above the threshold. rows (5, r) and columns (5, c): x1 y1 x2 y2 and area.

    The order of the operations is that of torchvision's kernel, so that rounding decides alike. 0 / 0 is no overlap.
    """
    ax1, ay1, ax2, ay2, a = rows[:, :, None]
    bx1, by1, bx2, by2, b = columns[:, None]
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_min_(0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_min_(0)
    common = width.mul_(height)
    return common.div_((a + b).sub_(common)) > threshold
