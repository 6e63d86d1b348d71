"""The true boxes of a batch, for detectors that predict at every place of a grid."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from retinue.datasets.targets import Target
from retinue.tasks.detection.box_coding import large_enough
from retinue.tasks.detection.matching import IN_CROWD, overlap_of
from retinue.tasks.detection.regions import SMALLEST


class Objects(NamedTuple):
    """What there is to learn, flat: picture (m,) int64, boxes (m, 4) float32 in canvas pixels, labels (m,) int64."""

    picture: Tensor
    boxes: Tensor
    labels: Tensor


def objects_of(targets: Sequence[Target]) -> Objects:
    """All boxes of the batch, picture by picture, without crowds and without slivers under `SMALLEST` pixels."""
    taken = [own(target) for target in targets]
    counts = torch.stack([rows.sum() for rows in taken])
    picture = torch.arange(len(targets), device=counts.device).repeat_interleave(counts)
    boxes = torch.cat([target["boxes"][rows] for target, rows in zip(targets, taken)])
    return Objects(
        picture, boxes.float(), torch.cat([t["box_labels"][rows] for t, rows in zip(targets, taken)])
    )


def own(target: Target) -> Tensor:
    """(g,) bool: the boxes of a picture that are learnt."""
    rows = large_enough(target["boxes"], SMALLEST)
    return rows & ~target["crowd"] if "crowd" in target else rows


def best_overlap(boxes: Tensor, targets: Sequence[Target]) -> Tensor:
    """(n, a) float32: the largest IoU of each predicted box (n, a, 4) with an object of its picture; 0 for none."""
    truth = _padded([target["boxes"][own(target)] for target in targets])
    if not truth.shape[1]:
        return boxes.new_zeros(boxes.shape[:2])
    return box_iou(truth, boxes).nan_to_num().amax(1)


def in_crowd(boxes: Tensor, targets: Sequence[Target]) -> Tensor:
    """(n, a) bool: more of the box (n, a, 4) than `IN_CROWD` lies in a crowd's: it is no background either."""
    crowds = _padded([t["boxes"][t["crowd"]] if "crowd" in t else t["boxes"][:0] for t in targets])
    if not crowds.shape[1]:
        return torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    return overlap_of(boxes, crowds).amax(1) > IN_CROWD


def _padded(boxes: Sequence[Tensor]) -> Tensor:
    """(n, most, 4): every picture's boxes, filled up with empty ones, which overlap nothing."""
    return nn.utils.rnn.pad_sequence(list(boxes), batch_first=True).float()
