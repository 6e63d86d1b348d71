"""Regions of pictures: which of them are learnt from, and which of them are the answer.

Girshick 2015, arXiv:1504.08083, section 2.3; suppression and thresholds as in torchvision's `RoIHeads`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from retinue.datasets.targets import DataError, Pictures, Target
from retinue.tasks.detection.box_coding import (
    REGION_WEIGHTS,
    Weights,
    clip,
    decode,
    large_enough,
    picture_sizes,
)
from retinue.tasks.detection.matching import BELOW, assign
from retinue.tasks.detection.nms import nms_of_pictures
from retinue.tasks.detection.sampling import sample

SMALLEST = 1e-2
"""Detections with a shorter side, in canvas pixels, are dropped."""


class Found(NamedTuple):
    """The detections of a batch, flat, each picture's sorted by score.

    boxes: (r, 4) float32 in canvas pixels. scores: (r,) float32. labels: (r,) int64, indices from 0. counts: how many
    of them are of each picture.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: list[int]


class Sampled(NamedTuple):
    """Regions that the losses are computed on, of one picture.

    boxes: (r, 4). labels: (r,) int64, 0 is background, class index + 1 else. truth: (r,) int64, the matched true box.
    """

    boxes: Tensor
    labels: Tensor
    truth: Tensor


@torch.no_grad()
def sample_regions(
    proposals: Sequence[Tensor], targets: Sequence[Target], size: int, fraction: float, iou: float
) -> list[Sampled]:
    """For each picture `size` of its proposals (r, 4) and true boxes, fewer where there are not as many.

    At most `fraction` of `size` are objects: those with an IoU of at least `iou` with a true box that is no crowd.
    """
    candidates, matched = [], []
    for boxes, target in zip(proposals, targets):
        crowd = target.get("crowd")
        own = target["boxes"] if crowd is None else target["boxes"][~crowd]
        candidates.append(torch.cat([boxes, own[large_enough(own, SMALLEST)]]))
        matched.append(assign(candidates[-1], target["boxes"], crowd, iou, iou))
    rows = nn.utils.rnn.pad_sequence(matched, batch_first=True, padding_value=BELOW - 9)
    chosen = sample(rows >= 0, rows == BELOW, size, fraction)
    regions = []
    for boxes, truth, taken, target in zip(candidates, matched, chosen, targets):
        truth, boxes = truth[taken[: len(truth)]], boxes[taken[: len(truth)]]
        labels = torch.where(truth >= 0, rows_of(target["box_labels"], truth) + 1, 0)
        regions.append(Sampled(boxes, labels, truth))
    return regions


def select(
    logits: Tensor,
    codes: Tensor,
    proposals: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    threshold: float,
    nms_iou: float,
    most: int,
) -> Found:
    """The best detections of every picture: those above the threshold, after suppression class by class.

    logits: (r, 1 + classes), background first; codes: (r, 1 + classes, 4), both of all proposals, picture by picture.
    Raises DataError where one of these is NaN.
    """
    refuse_nan(logits)
    refuse_nan(codes)
    scores = logits.float().softmax(1)[:, 1:]
    return select_scored(scores, codes[:, 1:], REGION_WEIGHTS, proposals, sizes, threshold, nms_iou, most)


def select_scored(
    scores: Tensor,
    codes: Tensor,
    weights: Weights,
    proposals: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    threshold: float,
    nms_iou: float,
    most: int,
) -> Found:
    """As `select`, of regions whose scores (r, classes) are known; codes: (r, classes, 4), in units of `weights`."""
    lengths = torch.tensor([len(boxes) for boxes in proposals], device=scores.device)
    picture = torch.arange(len(lengths), device=scores.device).repeat_interleave(lengths)
    region, labels = torch.where(scores > threshold)
    picture, scores = picture[region], scores[region, labels]
    boxes = decode(codes[region, labels], torch.cat(list(proposals))[region], weights)
    boxes = clip(boxes, picture_sizes(sizes, boxes)[picture])
    return best_of(boxes, scores, labels, picture, len(sizes), nms_iou, most)


def proposals_of(pictures: Pictures, task: str) -> list[Tensor]:
    """The pictures' proposals (r, 4) float32, in canvas pixels; DataError where a task is given none."""
    if "proposals" not in pictures.inputs:
        raise DataError(
            f"{task} reads the input 'proposals', which these pictures lack: give regions=FILE, which "
            f"`retinue propose` writes; faster_rcnn makes its own"
        )
    return [boxes.float() for boxes in pictures.inputs["proposals"]]


def best_of(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    picture: Tensor,
    count: int,
    nms_iou: float,
    most: int,
    smallest: float = SMALLEST,
    first_label: int = 1,
) -> Found:
    """Of candidates of `count` pictures the `most` best of each, after suppression class by class.

    boxes: (r, 4) float32 in canvas pixels. scores: (r,) float32. labels: (r,) int64, class indices from 0. picture:
    (r,) int64. Boxes with a shorter side than `smallest` are dropped. first_label: torchvision's number of class 0,
    for its rounding (`nms_of_pictures`).
    """
    large = large_enough(boxes, smallest)
    boxes, scores, labels, picture = boxes[large], scores[large], labels[large], picture[large]
    kept = nms_of_pictures(boxes, scores, labels + first_label, picture, nms_iou, most)
    counts = picture[kept].bincount(minlength=count).tolist()
    return Found(boxes[kept], scores[kept], labels[kept], counts)


def refuse_nan(values: Tensor) -> None:
    """DataError where a network gives NaN: above no threshold, it would pass for a picture without objects."""
    if values.isnan().any():
        raise DataError(
            "the network gives NaN: its weights are broken, or overflow; take others, or precision=fp32"
        )


def to_file(boxes: Sequence[Tensor], pictures: Pictures) -> list[np.ndarray]:
    """Each picture's boxes (r, 4) from canvas pixels to the file's, inside the file's picture; float32."""
    moved = []
    for rows, matrix, (height, width) in zip(boxes, pictures.to_file.numpy(), pictures.file_sizes):
        corners = rows.cpu().double().numpy().reshape(-1, 2, 2) @ matrix[:, :2].T + matrix[:, 2]
        corners = np.sort(corners, 1).clip(0, (width, height))
        moved.append(corners.reshape(-1, 4).astype(np.float32))
    return moved


def rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """values[rows]; where a row is negative or there are none at all, any value."""
    if not len(values):
        return values.new_zeros(len(rows), *values.shape[1:])
    return values[rows.clamp(min=0)]
