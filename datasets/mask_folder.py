"""Instance masks: PNGImages/x.jpg and PedMasks/x_mask.png, an index PNG with 1 to n for n objects, 0 for none."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from retinue.datasets.annotations import Annotations
from retinue.datasets.image_folder import pictures_below, split_folders
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.picture_files import as_bytes
from retinue.datasets.pictures import PictureError, read_indices
from retinue.datasets.problem import Problem
from retinue.datasets.scan import in_threads
from retinue.datasets.segments import Segments, Written
from retinue.datasets.targets import ClassMap, DataError

PICTURES = ("PNGImages", "JPEGImages", "images", "Images", "imgs")
"""What the folder of pictures is called."""

ENDING = "_mask"
"""What the name of a mask has more than its picture's. It tells these masks from those of semantic segmentation,
which are called as their pictures are: there values are classes, here they number objects."""

NAMELESS = "object"
"""The class where the folder of masks says nothing."""

MOST = 1000
"""More values in one mask are no objects but a picture."""

EVERY = 4
"""Of data without splits, each 4th picture in the order of the paths is val."""

HELD_OUT = f"the data have no splits of their own: every {EVERY}th picture, by name, is val"


class MaskFolder(ObjectPictures):
    """Pictures with instance masks; one class, called as the mask folder is (PedMasks: Ped), else "object"."""


def splits(source: str) -> dict[str, MaskFolder]:
    """The splits of a folder of instance masks as PennFudanPed has them; {} where the source is none.

    A folder (or each of its split folders) holds one of `PICTURES` and one folder whose name ends in "masks", in
    which files have the `ENDING`. A box is tight about the pixels of its value: x1 the first column, x2 the last plus
    one. Pictures without mask, and masks that cannot be read, are `skipped`; an all-zero mask is a picture without
    objects. Where the numbers are classes, `mask_pairs` reads them, once `values=` says what they mean.
    Raises DataError where nothing is left.
    """
    root = Path(source)
    if not root.is_dir():
        return {}
    if pair := _pair(root):
        return _divided(_read(root, "train", *pair))
    pairs = {name: pair for name, folder in split_folders(root).items() if (pair := _pair(folder))}
    return {name: _read(root, name, *pair) for name, pair in pairs.items()}


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """The folder of pictures and the folder of masks in a folder that has both."""
    pictures = next((folder / name for name in PICTURES if (folder / name).is_dir()), None)
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    masks = [folder / name for name in names if name.lower().endswith("masks")]
    if pictures is None or not any(_is_mask(path) for each in masks for path in pictures_below(each)):
        return None
    if len(masks) > 1:
        raise DataError(f"{folder}: holds {[each.name for each in masks]}; leave one folder of masks in it")
    return pictures, masks[0]


def _is_mask(path: Path) -> bool:
    return path.stem.endswith(ENDING)


@dataclass
class Mask:
    """One mask: the size (height, width), the values and, for each, box, area and COCO's run-length code."""

    size: tuple[int, int]
    values: list[int]
    boxes: np.ndarray
    areas: np.ndarray
    codes: list[Written]


def _read(root: Path, split: str, pictures: Path, masks: Path) -> MaskFolder:
    name = masks.name[: -len("masks")].strip("_- ") or NAMELESS
    by_stem = {
        path.relative_to(masks).with_suffix("").as_posix().removesuffix(ENDING): path
        for path in pictures_below(masks)
        if _is_mask(path)
    }
    paths = pictures_below(pictures)
    stems = [path.relative_to(pictures).with_suffix("").as_posix() for path in paths]
    found = [
        Problem("warning", "mask without picture", str(by_stem[stem]), f"no {stem} in {pictures}", "add it")
        for stem in sorted(by_stem.keys() - set(stems))
    ]
    answers = in_threads(_mask, [by_stem.get(stem, masks / f"{stem}{ENDING}.png") for stem in stems], 2)
    read = [(path, mask) for path, mask in zip(paths, answers) if isinstance(mask, Mask)]
    skipped = [(path, mask) for path, mask in zip(paths, answers) if isinstance(mask, str)]
    if not read:
        raise DataError(
            f"{pictures}: no picture has a mask that can be read; {skipped[0][1] if skipped else 'empty'}"
        )
    found += [problem for path, mask in read for problem in _gaps(path, mask)]
    annotations = _annotations([path.relative_to(root).as_posix() for path, _ in read], [m for _, m in read])
    data = MaskFolder(root, split, annotations, ClassMap((name,), (1,)), found=found, skipped=skipped)
    if name == NAMELESS:
        data.remarks.append(
            "the masks' numbers are taken for objects; if they are classes: values=0:NAME,1:NAME,..."
        )
    return data


def _mask(path: Path) -> Mask | str:
    """What a mask says, or why it cannot be used."""
    try:
        indices = read_indices(path)
    except PictureError as error:
        return f"its mask {error}"
    values = np.flatnonzero(np.bincount(indices.ravel()))
    values = values[values > 0]
    if len(values) > MOST:
        return f"its mask {path} has {len(values)} values; write 0 for none and 1 to n for n objects"
    codes = [coco_mask.encode(np.asfortranarray(indices == value).view(np.uint8)) for value in values]
    boxes = np.array([coco_mask.toBbox(code) for code in codes], np.float64).reshape(-1, 4)
    areas = np.array([coco_mask.area(code) for code in codes], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return Mask(indices.shape, values.tolist(), boxes, areas, list(codes))


def _gaps(path: Path, mask: Mask) -> Iterator[Problem]:
    if mask.values != list(range(1, len(mask.values) + 1)):
        value = f"its mask has the values {mask.values[:8]}: are they objects, numbered from 1?"
        yield Problem("warning", "mask values", str(path), value, "see whether this was meant")


def _annotations(paths: list[str], masks: list[Mask]) -> Annotations:
    counts = [len(mask.values) for mask in masks]
    return Annotations(
        paths=as_bytes(paths),
        offsets=np.cumsum([0, *counts], dtype=np.int64),
        boxes=np.concatenate([mask.boxes for mask in masks]),
        labels=np.zeros(sum(counts), np.int64),
        area=np.concatenate([mask.areas for mask in masks]),
        segments=Segments.of(code for mask in masks for code in mask.codes),
        sizes=np.array([mask.size for mask in masks], np.int32),
        object_ids=np.array([value for mask in masks for value in mask.values], np.int64),
    )


def _divided(whole: MaskFolder) -> dict[str, MaskFolder]:
    held = np.arange(len(whole)) % EVERY == EVERY - 1
    parts = {name: whole.select(kept) for name, kept in (("train", ~held), ("val", held)) if kept.any()}
    for name, part in parts.items():
        part.split = name
        part.remarks.append(HELD_OUT)
    return parts
