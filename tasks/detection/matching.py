"""Which true box a candidate (an anchor, a proposal) stands for.

Ren et al. 2015, arXiv:1506.01497, section 3.1.2; for regions Girshick 2015, arXiv:1504.08083, section 2.3; for default
boxes Liu et al. 2016, arXiv:1512.02325, section 2.2.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from retinue.datasets.targets import Target

BELOW, BETWEEN = -1, -2
"""Instead of a true box's index: background, and neither background nor object."""
IN_CROWD = 0.5
"""A background candidate with more of its area than this in a crowd's box is neither: there may well be an object."""
EveryTruth = bool | Literal["own"]


def match(iou: Tensor, high: float, low: float, every_truth: EveryTruth = False) -> Tensor:
    """For each column of `iou` (truths, candidates) its best truth's row, or BELOW or BETWEEN; (candidates,) int64.

    Best of at least `high` is a match, less than `low` background. `every_truth`: so are, at any overlap but none, the
    candidates that no other surpasses for some truth (ties included), each with its own best truth. "own": each truth
    has the one candidate that fits it best, even if that one fits another truth better; of truths that share it, the
    last. NaN, the overlap of two empty boxes, is none.
    """
    if not len(iou):
        return torch.full((iou.shape[1],), BELOW, dtype=torch.int64, device=iou.device)
    best, rows = iou.max(0)
    matched = torch.where(best >= high, rows, torch.where(best >= low, BETWEEN, BELOW))
    if every_truth == "own" and iou.shape[1]:
        most, places = iou.max(1)
        (truths,) = torch.where(most > 0)
        last = torch.full_like(matched, -1).scatter_reduce_(0, places[truths], truths, "amax")
        matched = torch.where(last >= 0, last, matched)
    elif every_truth and iou.shape[1]:
        most = iou.amax(1, keepdim=True)
        chosen = (iou == most.where(most > 0, torch.inf)).any(0)
        matched = torch.where(chosen, rows, matched)
    return matched


def assign(
    candidates: Tensor,
    boxes: Tensor,
    crowd: Tensor | None,
    high: float,
    low: float,
    every_truth: EveryTruth = False,
) -> Tensor:
    """Index into `boxes` (g, 4) for each of `candidates` (a, 4), or BELOW or BETWEEN; (a,) int64.

    crowd (g,) bool: such boxes are never matched, and background inside them is BETWEEN (see `IN_CROWD`).
    """
    if crowd is None or not crowd.any():
        return match(box_iou(boxes, candidates), high, low, every_truth)
    own = torch.where(~crowd)[0]
    matched = match(box_iou(boxes[own], candidates), high, low, every_truth)
    covered = overlap_of(candidates, boxes[crowd]).amax(0)
    matched = torch.where((matched == BELOW) & (covered > IN_CROWD), BETWEEN, matched)
    return torch.where(matched >= 0, own[matched.clamp(min=0)] if len(own) else matched, matched)


def overlap_of(candidates: Tensor, boxes: Tensor) -> Tensor:
    """(..., boxes, candidates): the share of each candidate's own area that lies in each box.

    candidates: (..., a, 4). boxes: (..., g, 4).
    """
    low = torch.maximum(boxes[..., :, None, :2], candidates[..., None, :, :2])
    high = torch.minimum(boxes[..., :, None, 2:], candidates[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(-1) / box_area(candidates).clamp(min=1e-6)[..., None, :]


def matched_rows(matched: Tensor, targets: Sequence[Target], key: str) -> Tensor:
    """What each match has under a key: (matches, ...), in the order of `matched >= 0`.

    matched: (n, a) int64, for every picture the rows of its own target.
    """
    counts = torch.tensor([0, *(len(target[key]) for target in targets)], device=matched.device)
    rows = (matched + counts.cumsum(0)[:-1, None])[matched >= 0]
    return torch.cat([target[key] for target in targets])[rows]
