"""Anchors from the training data: k-means on the sides of its boxes.

Redmon and Farhadi 2016, arXiv:1612.08242, section 2. The distance of two boxes is 1 - IoU with one centre, so that
large boxes do not count for more than small ones.
"""

from typing import Any

import numpy as np

from retinue.datasets.targets import DataError

MOST = 50_000
"""Boxes that are clustered: of more, so many drawn by lot."""
ROUNDS = 300


def box_sizes(dataset: Any) -> np.ndarray:
    """(m, 2) float64: width and height of a data set's boxes, crowds aside, in parts of their picture's longer side.

    That is their size on a letterboxed square of side 1. Pictures are read only where the data set does not know the
    sizes without (`box_sizes()`).
    """
    if hasattr(dataset, "box_sizes"):
        return np.asarray(dataset.box_sizes(), np.float64)
    sizes = [np.zeros((0, 2))]
    for i in range(len(dataset)):
        sample = dataset[i]
        boxes, crowd = sample.targets["boxes"], sample.targets.get("crowd")
        boxes = boxes if crowd is None else boxes[~crowd]
        sizes.append((boxes[:, 2:] - boxes[:, :2]) / max(sample.image.shape[:2]))
    return np.concatenate(sizes).astype(np.float64)


def cluster(sizes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(count, 2) float64: centres of boxes' sizes (m, 2), by area, the smallest first.

    Begins with k-means++ draws (Arthur and Vassilvitskii 2007) and ends where no box changes its centre. DataError for
    fewer different boxes than centres.
    """
    sizes = sizes[(sizes > 0).all(1)]
    if len(distinct := np.unique(sizes, axis=0)) < count:
        raise DataError(
            f"anchors=kmeans: {count} anchors need as many different boxes, and the training data have "
            f"{len(distinct)}; use anchors=coco or give your own"
        )
    rng = np.random.default_rng(seed)
    if len(sizes) > MOST:
        sizes = sizes[rng.choice(len(sizes), MOST, replace=False)]
    centres = sizes[rng.integers(len(sizes))][None]
    while len(centres) < count:
        far = (1 - shape_iou(sizes, centres).max(1)).clip(0) ** 2
        chances = far / far.sum() if far.sum() else None
        centres = np.concatenate([centres, sizes[rng.choice(len(sizes), p=chances)][None]])
    nearest = np.full(len(sizes), -1)
    for _ in range(ROUNDS):
        before, nearest = nearest, shape_iou(sizes, centres).argmax(1)
        if (nearest == before).all():
            break
        held = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, sizes[:, i], count) for i in (0, 1)], 1)
        centres = np.where(held[:, None] > 0, sums / np.maximum(held, 1)[:, None], centres)
    return centres[np.argsort(centres.prod(1), kind="stable")]


def shape_iou(sizes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(m, k): IoU of boxes of sizes (m, 2) and (k, 2) that share their centre."""
    common = np.minimum(sizes[:, None], centres[None]).prod(2)
    return common / (sizes.prod(1)[:, None] + centres.prod(1)[None] - common)
