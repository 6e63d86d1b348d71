"""Sheets of a batch as the network sees it, with its classes: the truth, or the truth beside what was predicted."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from retinue.datasets.resample import compose, inverse, warp_nearest
from retinue.datasets.targets import IGNORE, ClassMap, Pictures, Target
from retinue.tasks.drawing import INK, RIGHT, WRONG, Colour, fit, images_of, sheet
from retinue.tasks.segmentation.metrics import SegmentationMetric
from retinue.tasks.segmentation.overlay import count_labels, grey, hatch, legend, paint_labels
from retinue.tasks.segmentation.results import Segmentation, say_shares, shares_of

ROW = 18
"""Height of a line of a sheet's legend, in pixels."""


def draw_batch(
    pictures: Pictures,
    targets: Sequence[Target],
    classes: ClassMap,
    results: Sequence[Segmentation] | None = None,
    tile: int = 280,
) -> np.ndarray:
    """A sheet (h, w, 3) uint8 RGB of a batch as the network sees it, with its classes and a legend of them.

    A picture has two tiles, itself and its truth; what the truth ignores is hatched. Without `results`, the targets are
    those of training, in the frame of the canvas. With them, results and targets are in the file's frame, and there are
    two tiles more: the prediction, and what is wrong in red, with the figures of this picture alone.
    """
    counts = np.zeros(256, np.int64)
    images, captions, colours = [], [], []
    for i, (image, target) in enumerate(zip(images_of(pictures), targets, strict=True)):
        image, to_tile = _fit(image, tile)
        if results is not None:
            to_tile = compose(to_tile, inverse(pictures.to_file[i].cpu().numpy()))
        truth = target["semantic"].cpu().numpy().astype(np.uint8)
        seen = _moved(truth, to_tile, image)
        counts += count_labels(truth)
        images += [image, paint_labels(image, seen, classes)]
        shown = say_shares(shares_of(truth, classes), 2) if results is None else "truth"
        captions += [pictures.ids[i].rpartition("/")[2], shown]
        colours += [INK, INK]
        if results is not None:
            found = _moved(results[i].labels, to_tile, image)
            counts += count_labels(results[i].labels)
            images += [paint_labels(image, found, classes), paint_wrong(image, seen, found)]
            said, colour = _judge(results[i], target)
            captions += ["prediction", said]
            colours += [INK, colour]
    columns = 8 if results is None or len(pictures) > 4 else 4
    tallest = max((len(image) for image in images), default=tile)
    made = sheet(images, captions, colours, columns, tile, tallest)
    return np.concatenate([made, legend(counts, classes, len(made), ROW)], 1)


def paint_wrong(picture: np.ndarray, truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The light of a picture (h, w, 3) uint8 RGB; red where its label maps differ, hatched where the truth is 255."""
    drawn, ignored = grey(picture), truth == IGNORE
    wrong = cv2.addWeighted(drawn, 0.25, np.full_like(drawn, WRONG), 0.75, 0)
    cv2.copyTo(wrong, ((truth != found) & ~ignored).view(np.uint8), drawn)
    cv2.copyTo(cv2.addWeighted(drawn, 0.5, hatch(truth.shape, 4), 0.5, 0), ignored.view(np.uint8), drawn)
    return drawn


def _judge(result: Segmentation, target: Target) -> tuple[str, Colour]:
    """The figures of one picture, in the file's frame, and green where nothing is wrong."""
    metric = SegmentationMetric(result.classes, boundary=False)
    metric.update([result.id], [result], [target])
    values = metric.compute()
    if math.isnan(values["miou"]):
        return "nothing to judge", INK
    right = values["pixel_accuracy"]
    return f"{100 * right:.1f} % right, mIoU {values['miou']:.2f}", RIGHT if right == 1 else INK


def _fit(image: np.ndarray, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """The image as large as a tile, and the affine map (2, 3) from its pixels to the tile's."""
    fitted = fit(image, tile)
    y, x = (after / before for after, before in zip(fitted.shape[:2], image.shape[:2]))
    return fitted, np.array([[x, 0, 0], [0, y, 0]])


def _moved(labels: np.ndarray, affine: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Labels (h, w) brought by an affine map (2, 3) to the pixels of an image; 255 beyond them."""
    return warp_nearest(labels[None], affine, (image.shape[0], image.shape[1]), IGNORE)[0]
