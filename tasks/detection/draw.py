"""Detections and truth drawn: on a picture, and on sheets of a batch as the network sees it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from retinue.datasets.targets import ClassMap, Pictures, Target
from retinue.tasks.detection.judged import JudgedBoxes, PictureBoxes
from retinue.tasks.detection.overlaps import match, overlapping
from retinue.tasks.detection.paint import (
    BLACK,
    WHITE,
    Box,
    Labels,
    colour,
    line_width,
    paint_box,
    paint_keypoints,
    paint_mask,
)
from retinue.tasks.drawing import INK, RIGHT, WRONG, fit, images_of, sheet

SHOWN = 0.5
"""Least score of a detection on a sheet."""

Crop = tuple[int, int, np.ndarray]
"""(y, x, mask (h', w') bool): a mask and where it begins in the picture."""


@dataclass(frozen=True)
class Objects:
    """What is drawn of one picture's objects, predicted or true, in some picture's pixels.

    boxes: (n, 4). labels: (n,) class indices. names: what is written beside each, "" for nothing. masks: gives the mask
    of an object, so that no two exist at once. keypoints: (n, k, 3), x, y, visibility.
    """

    boxes: np.ndarray
    labels: np.ndarray
    names: list[str]
    masks: Callable[[int], Crop] | None = None
    keypoints: np.ndarray | None = None

    def moved(self, affine: np.ndarray, size: tuple[int, int]) -> "Objects":
        """The same objects after an affine map (2, 3) without shear, into a picture of `size` (height, width)."""
        corners = self.boxes.reshape(-1, 2, 2) @ affine[:, :2].T + affine[:, 2]
        masks, points = self.masks, self.keypoints
        if points is not None:
            points = np.concatenate([points[..., :2] @ affine[:, :2].T + affine[:, 2], points[..., 2:]], -1)
        return replace(
            self,
            boxes=np.concatenate([corners.min(1), corners.max(1)], 1),
            masks=(lambda i: _move_mask(masks(i), affine, size)) if masks else None,
            keypoints=points,
        )


def predicted(result: Any) -> Objects:
    """What is drawn of a picture's `Detections`, in the file's pixels."""
    names = [f"{name} {100 * score:.0f}%" for name, score in zip(result.names, result.scores)]
    masks = result.masks.one if result.masks is not None else None
    return Objects(result.boxes, result.labels, names, masks, result.keypoints)


def true(target: Target, classes: ClassMap) -> Objects:
    """What is drawn of a picture's targets, in their own frame."""
    given = {key: value.cpu().numpy() for key, value in target.items()}
    labels = given["box_labels"]
    crowd = given.get("crowd", np.zeros(len(labels), bool))
    names = [classes.names[label] + (" (crowd)" if many else "") for label, many in zip(labels, crowd)]
    masks = (lambda i: (0, 0, given["masks"][i])) if "masks" in given else None
    return Objects(given["boxes"], labels, names, masks, given.get("keypoints"))


def draw_objects(picture: np.ndarray, objects: Objects, classes: ClassMap) -> np.ndarray:
    """A copy of the picture (h, w, 3) uint8 RGB with the objects drawn, those that come first on top.

    Names do not cover each other: where there is no room at its box, a name is left out.
    """
    picture = np.ascontiguousarray(picture).copy()
    _paint(picture, objects, classes)
    _name(Labels(picture, _whole(objects.boxes)), objects)
    return picture


def draw_batch(
    pictures: Pictures,
    targets: Sequence[Target],
    classes: ClassMap,
    results: Sequence[Any] | None = None,
    columns: int = 4,
    tile: int = 400,
) -> np.ndarray:
    """A sheet (h, w, 3) uint8 RGB of a batch as the network sees it, with its objects and their class names.

    Without `results`, the targets are those of training, in the frame of the canvas. With them, one `Detections` a
    picture, results and targets are in the file's frame: predictions of at least `SHOWN` are solid, truth is dashed
    in white and named where it was missed. A caption is green where all is right and red where nothing was found.
    """
    shown, captions, colours = [], [], []
    for i, (image, target) in enumerate(zip(images_of(pictures), targets, strict=True)):
        image, to_tile = _fit(image, tile)
        truth = true(target, classes)
        if results is None:
            shown.append(draw_objects(image, truth.moved(to_tile, image.shape[:2]), classes))
            captions.append(count_names(truth.names))
            colours.append(INK)
            continue
        found = results[i].above(SHOWN)
        right, seen, crowd = judge(found, target)
        to_tile = _after(to_tile, cv2.invertAffineTransform(pictures.to_file[i].cpu().numpy()))
        missed = ~seen & ~crowd
        shown.append(_judged(image, predicted(found), truth, missed, to_tile, classes))
        wrong = int((~right).sum())
        captions.append(f"{int(seen.sum())} found, {int(missed.sum())} missed, {wrong} false")
        colours.append(RIGHT if not wrong and not missed.any() else INK if right.any() else WRONG)
    return sheet(shown, captions, colours, columns, tile)


def judge(found: Any, target: Target, least: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) bool: not false; (t,) bool: truth that was found; (t,) bool: crowd. `found`: `Detections`, the surest first.

    By COCO's matching, as in the figures; what lies in a crowd of its class is not false.
    """
    truth = {key: target[key].cpu().numpy() for key in ("boxes", "box_labels", "crowd") if key in target}
    boxes, labels = truth["boxes"], truth["box_labels"]
    crowd = truth.get("crowd", np.zeros(len(labels), bool))
    picture = PictureBoxes(boxes, labels, crowd, found.boxes, found.scores, found.labels)
    judged = JudgedBoxes.from_pictures({found.id: picture})
    matched, ignored = match(judged, overlapping(judged, least), least)
    seen = np.zeros(len(labels), bool)
    seen[matched[matched >= 0]] = True
    return (matched >= 0) | ignored, seen, crowd


def count_names(names: Iterable[str]) -> str:
    """ "3 person, 1 dog": the most frequent first."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common()) or "no objects"


def _paint(picture: np.ndarray, objects: Objects, classes: ClassMap) -> None:
    """Masks, boxes and keypoints, the first object last."""
    width = line_width(picture)
    shades = [colour(int(label)) for label in objects.labels]
    boxes = _whole(objects.boxes)
    backwards = range(len(boxes))[::-1]
    if objects.masks is not None:
        for i in backwards:
            y, x, mask = objects.masks(i)
            paint_mask(picture, y, x, mask, shades[i], width)
    for i in backwards:
        paint_box(picture, boxes[i], shades[i], width)
    if objects.keypoints is not None:
        names, skeleton = classes.keypoints.get("names", ()), classes.keypoints.get("skeleton", ())
        for points in objects.keypoints[::-1]:
            paint_keypoints(picture, points, names, skeleton, width)


def _name(labels: Labels, objects: Objects) -> None:
    for name, box, label in zip(objects.names, _whole(objects.boxes), objects.labels):
        if name:
            labels.paint(name, box, colour(int(label)))


def _judged(
    image: np.ndarray,
    found: Objects,
    truth: Objects,
    missed: np.ndarray,
    affine: np.ndarray,
    classes: ClassMap,
) -> np.ndarray:
    """Predictions over their truth, which is dashed, both in the frame that `affine` leads from."""
    found, truth = (each.moved(affine, image.shape[:2]) for each in (found, truth))
    picture = image.copy()
    width, boxes = line_width(picture), _whole(truth.boxes)
    for box in boxes:
        paint_box(picture, box, BLACK, width)
        paint_box(picture, box, WHITE, width, dashed=True)
    _paint(picture, found, classes)
    labels = Labels(picture, boxes + _whole(found.boxes))
    _name(labels, found)
    for name, box, was_missed in zip(truth.names, boxes, missed):
        if was_missed:
            labels.paint(name, box, WHITE)
    return picture


def _whole(boxes: np.ndarray) -> list[Box]:
    """Boxes in continuous coordinates as the pixels that they cover, at least one."""
    boxes = np.clip(np.round(boxes), -(2**15), 2**15).astype(int)  # OpenCV draws nothing far outside
    boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, boxes[:, :2])
    return [tuple(box) for box in boxes.tolist()]


def _fit(image: np.ndarray, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """The image as large as a tile, and the affine map (2, 3) from its pixels to the tile's."""
    fitted = fit(image, tile)
    y, x = (after / before for after, before in zip(fitted.shape[:2], image.shape[:2]))
    return fitted, np.array([[x, 0, 0], [0, y, 0]])


def _after(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The affine map (2, 3) that applies `first`, then `second`."""
    return second @ np.vstack([first, [0, 0, 1]])


def _move_mask(crop: Crop, affine: np.ndarray, size: tuple[int, int]) -> Crop:
    """A mask after an affine map of continuous coordinates, in a picture of `size` (height, width)."""
    y, x, mask = crop
    if not mask.size:
        return 0, 0, np.zeros(size, bool)
    pixels = affine.copy()
    pixels[:, 2] += affine[:, :2] @ (x + 0.5, y + 0.5) - 0.5  # OpenCV's pixel centres are whole numbers
    return 0, 0, cv2.warpAffine(mask.astype(np.uint8) * 255, pixels, (size[1], size[0])) > 127
