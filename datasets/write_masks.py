"""Write instance-mask folders: <split>/PNGImages/ and <split>/<Class>Masks/x_mask.png, as PennFudanPed has them."""

import os
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from retinue.datasets.conversion import Loss, Parts, count, extras_of, outlines
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.targets import DataError

TOGETHER, BY_STEM, SINGLE_POLYGONS = False, True, False
"""Splits have folders of their own; masks are called as the pictures are; they are drawn, whatever they were."""


def picture_path(split: str, name: str) -> str:
    """Where a picture lies in the new data set."""
    return f"{split}/PNGImages/{name}"


def losses(parts: Parts) -> list[Loss]:
    """What an index mask cannot hold. DataError where there are no outlines at all, or too many objects."""
    annotations = [part.annotations for part in parts.values()]
    if all(a.segments is None for a in annotations):
        raise DataError(
            "the data have no outlines, and mask folders hold nothing else; convert to coco, voc or yolo"
        )
    found = []
    if crowd := sum(count(a.crowd) for a in annotations):
        found.append(
            Loss("crowd", f"masks would show {crowd} crowd objects, which are to be ignored, as objects")
        )
    if any(a.keypoints is not None for a in annotations):
        found.append(Loss("keypoints", "masks hold no keypoints"))
    if bare := sum(len(a.labels) for a in annotations) - sum(len(list(outlines(p))) for p in parts.values()):
        found.append(Loss("boxes", f"{bare} objects have no outline"))
    classes = next(iter(parts.values())).classes
    used = np.unique(np.concatenate([a.labels for a in annotations])).tolist()
    if len(used) > 1:
        found.append(Loss("classes", f"objects are of {len(used)} classes, masks number objects of one"))
    pixels = sum(_shared(part) for part in parts.values())
    if pixels:
        found.append(
            Loss("overlaps", f"{pixels} pixels belong to several objects, a mask has one number for each")
        )
    if classes.keypoints or len(classes) > 1 or classes.ids != (1,):
        found.append(Loss("", "the class is known by the folder's name only, its id is 1"))
    found.append(Loss("", "boxes become those around the pixels, areas their number"))
    for what in ("image_ids", "object_ids"):
        if any(getattr(a, what) is not None for a in annotations):
            found.append(
                Loss("", f"masks have no place for {what.replace('_', ' ')}; objects count from 1 in each")
            )
    if said := extras_of(parts):
        found.append(Loss("", f"masks have no place for {said}"))
    return found


def _codes(part: ObjectPictures, index: int) -> list[dict[str, object]]:
    a = part.annotations
    height, width = np.asarray(a.sizes)[index].tolist()
    rows = range(*a.offsets[index : index + 2].tolist())
    return [a.segments.rle(row, height, width) for row in rows] if a.segments is not None else []


def _shared(part: ObjectPictures) -> int:
    pixels = 0
    for i in range(len(part)):
        codes = _codes(part, i)
        if len(codes) > 2**16 - 1:
            raise DataError(f"{part.path(i)}: {len(codes)} objects are too many for the numbers of one mask")
        if len(codes) > 1:
            pixels += sum(int(coco_mask.area(code)) for code in codes) - int(
                coco_mask.area(coco_mask.merge(codes))
            )
    return pixels


def write(parts: Parts, out: Path, names: dict[str, list[str]]) -> None:
    """Write one PNG a picture, 0 for no object and 1 to n for n; later objects are drawn over earlier ones.

    8 bits, or 16 where there are more than 255 objects. Raises DataError where an object shows no pixel.
    """
    classes = next(iter(parts.values())).classes
    used = np.unique(np.concatenate([part.annotations.labels for part in parts.values()])).tolist()
    name = classes.names[used[0]] if used else "object"
    safe = "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name).strip(" -_.")
    for split, part in parts.items():
        for i, picture in enumerate(names[split]):
            codes = _codes(part, i)
            canvas = np.zeros(np.asarray(part.annotations.sizes)[i].tolist(), np.uint16)
            for number, code in enumerate(codes, 1):
                canvas[coco_mask.decode(code) > 0] = number
            if hidden := set(range(1, len(codes) + 1)) - set(np.unique(canvas).tolist()):
                raise DataError(
                    f"{part.path(i)}: {len(hidden)} objects show no pixel in its mask; remove them, or convert to coco"
                )
            file = out / split / f"{safe or 'object'}Masks" / f"{os.path.splitext(picture)[0]}_mask.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = np.uint8 if len(codes) < 256 else np.uint16
            done, data = cv2.imencode(".png", canvas.astype(kind))
            assert done
            file.write_bytes(data.tobytes())
