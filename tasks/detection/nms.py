"""Non-maximum suppression by class, with torchvision's answer in less time where boxes are many."""

import numpy as np
import torch
import torchvision
from torch import Tensor

ROWS, COLUMNS = 256, 128
"""Sides of the blocks of overlaps: they fit the cache, and torch starts no threads for them."""

FEW = 1000
"""Up to so many boxes torchvision tells classes apart by shifting boxes, in float32, which rounds."""

PAIRS = 50_000
"""Up to so many pairs of the same class and picture are compared at once; more are torchvision's kernel's."""

FIRST = 4
"""How many times as many boxes as are wanted are tried first."""


def nms_of_pictures(
    boxes: Tensor, scores: Tensor, labels: Tensor, picture: Tensor, threshold: float, most: int
) -> Tensor:
    """The `most` best of what `batched_nms` leaves of each picture's boxes: indices, picture by picture, best first.

    boxes: (n, 4) x1 y1 x2 y2, scores: (n,), labels: (n,) int64 from 0, numbered as torchvision numbers them, for what
    it rounds; picture: (n,) int64. What the best boxes leave of each other does not depend on the rest, so no more of
    them are looked at than it takes. All pairs that may suppress each other are compared at once, whatever the number
    of classes and pictures, with torchvision's rounding; where they are too many, picture by picture.
    """
    if not len(boxes):
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    counts, boxes = picture.bincount(), boxes.float()
    few = (counts <= FEW) | (boxes.device.type != "cpu")
    boxes = _as_torchvision_shifts(boxes, labels, picture, few)
    tried = FIRST * most
    while True:
        rows = best_of_each(scores, picture, tried)
        kept = rows[_left(boxes[rows], scores[rows], labels[rows], picture[rows], few, threshold)]
        if ((picture[kept].bincount(minlength=len(counts)) >= most) | (counts <= tried)).all():
            return kept[best_of_each(scores[kept], picture[kept], most)]
        tried *= FIRST


def _left(
    boxes: Tensor, scores: Tensor, labels: Tensor, picture: Tensor, few: Tensor, threshold: float
) -> Tensor:
    """Which of these boxes stay: indices. few: of each picture, whether shifts tell its classes apart."""
    order, sizes = _by_group(scores, picture * (labels.amax() + 1) + labels)
    if (sizes * (sizes - 1)).sum() > 2 * PAIRS:
        parts = [torch.where(picture == i)[0] for i in picture.unique()]
        apart = [few[picture[part[0]]] for part in parts]
        best = [
            torchvision.ops.nms(boxes[p], scores[p], threshold)
            if shifted
            else _one_by_one(boxes[p], scores[p], labels[p], threshold)
            for p, shifted in zip(parts, apart)
        ]
        return torch.cat([part[rows] for part, rows in zip(parts, best)])
    better, worse = _pairs(sizes)
    sides = boxes[order].T
    sides = torch.cat([sides, ((sides[2] - sides[0]) * (sides[3] - sides[1]))[None]])
    overlap = _overlap(sides.index_select(1, better), sides.index_select(1, worse), _floor(threshold))
    return order[_alive(better[overlap], worse[overlap], len(order))]


def best_of_each(scores: Tensor, groups: Tensor, most: int) -> Tensor:
    """Indices of the `most` best of each group, group by group, best first; of equal ones the first.

    scores: (n,). groups: (n,) int64 from 0.
    """
    order, sizes = _by_group(scores, groups)
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return order[rank < most]


def _by_group(scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """(the order by group and falling score, how many are of each group that there is)."""
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    return order, torch.unique_consecutive(groups[order], return_counts=True)[1]


def _pairs(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Every two rows of the same group, the earlier and the later one; groups lie one after the other."""
    ends = sizes.cumsum(0).repeat_interleave(sizes)
    row = torch.arange(len(ends), device=sizes.device)
    later = ends - row - 1
    first = row.repeat_interleave(later)
    begin = (later.cumsum(0) - later)[first]
    return first, torch.arange(len(first), device=sizes.device) - begin + first + 1


def _as_torchvision_shifts(boxes: Tensor, labels: Tensor, picture: Tensor, few: Tensor) -> Tensor:
    """The boxes as `torchvision.ops.batched_nms` compares them: of pictures with few, shifted by class and rounded."""
    largest = boxes.new_zeros(len(few)).scatter_reduce_(0, picture, boxes.amax(1), "amax", include_self=False)
    shifted = boxes + (labels.to(boxes) * (largest[picture] + 1))[:, None]
    return torch.where(few[picture, None], shifted, boxes)


def _alive(better: Tensor, worse: Tensor, count: int) -> Tensor:
    """(count,) bool: what is left when each row, in order, removes those that it overlaps unless it was removed itself.

    better, worse: (e,) int64, the overlapping pairs. All rows decide at once, again and again, until nothing changes:
    after k rounds the first k rows of every chain of overlaps are right (Zheng et al. 2020, arXiv:2005.03572, "cluster
    NMS").
    """
    alive = torch.ones(count, dtype=torch.bool, device=better.device)
    while True:
        left = torch.ones_like(alive)
        left[worse[alive[better]]] = False
        if torch.equal(left, alive):
            return alive
        alive = left


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
    return _one_by_one(boxes, scores, groups, threshold)


def _one_by_one(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """As `batched_nms`, group after group."""
    order, counts = _by_group(scores, groups)
    sizes = counts.tolist()
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
        dead = [
            _overlap(rows[:, :, None], part[:, None], threshold32).any(0)
            for part in sides.split(COLUMNS, dim=1)
        ]
        alive = ~torch.cat(dead)
        left, sides = left[alive], sides[:, alive]
    return torch.cat(kept)


def _floor(threshold: float) -> float:
    """The largest float32 that is no larger. torchvision's kernel compares overlaps, float32, with the double itself:
    0.3 as a float32 is above 0.3, and suppresses."""
    rounded = np.float32(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-1)))


def _overlap(rows: Tensor, columns: Tensor, threshold: float) -> Tensor:
    """(...,) bool: IoU above the threshold. rows and columns, which broadcast: (5, ...), x1 y1 x2 y2 and area.

    The order of the operations is that of torchvision's kernel, so that rounding decides alike. 0 / 0 is no overlap.
    """
    ax1, ay1, ax2, ay2, a = rows
    bx1, by1, bx2, by2, b = columns
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_min_(0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_min_(0)
    common = width.mul_(height)
    return common.div_((a + b).sub_(common)) > threshold
