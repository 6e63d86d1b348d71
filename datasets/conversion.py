"""What every writer of a detection format shares: what would be lost, pictures' names, outlines as polygons."""

import copy
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from retinue.datasets.annotations import Annotations
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.polygons import as_polygons
from retinue.datasets.segments import Segments, Written
from retinue.datasets.targets import ClassMap, DataError

Parts = dict[str, ObjectPictures]
"""The splits of a data set, by name."""

KINDS = {
    "masks": "leave outlines behind, keep boxes",
    "keypoints": "leave keypoints behind",
    "crowd": "leave out crowd objects",
    "boxes": "leave out objects without an outline",
    "classes": "make one class of all",
    "overlaps": "give shared pixels to the later object",
}
"""What a format may be unable to hold -> what is done where the user agrees to lose it."""


@dataclass(frozen=True)
class Loss:
    """Something that a format cannot hold. kind: one of `KINDS`, which needs consent; "" for what is only said."""

    kind: str
    text: str


def with_annotations(part: ObjectPictures, annotations: Annotations) -> ObjectPictures:
    """The same pictures with other objects."""
    chosen = copy.copy(part)
    chosen.annotations = annotations
    return chosen


def without(parts: Parts, kinds: set[str]) -> Parts:
    """The splits without what the user agreed to lose, as far as that is a matter of annotations."""
    chosen = {}
    for name, part in parts.items():
        a = part.annotations
        if "crowd" in kinds and a.crowd is not None:
            a = replace(a.keep(~a.crowd), crowd=None)
        if "masks" in kinds:
            a = replace(a, segments=None)
        if "keypoints" in kinds:
            a = replace(a, keypoints=None)
        if "boxes" in kinds and a.segments is not None:
            a = a.keep(a.segments.drawn)
        if "classes" in kinds:
            a = replace(a, labels=np.zeros_like(a.labels))
        chosen[name] = with_annotations(part, a)
    return chosen


def outlines(part: ObjectPictures) -> Iterator[tuple[int, int, Written]]:
    """(picture, row, outline) of every object that has one."""
    a = part.annotations
    if a.segments is not None:
        for row, picture in enumerate(a.pictures.tolist()):
            if (written := a.segments.written(row)) is not None:
                yield picture, row, written


def count(values: np.ndarray | None) -> int:
    """How many are true."""
    return 0 if values is None else int(values.sum())


def refuse_turned(parts: Parts) -> None:
    """DataError where outlines lie in another frame than boxes: those of pictures that EXIF turns."""
    for part in parts.values():
        for picture, _, _ in outlines(part):
            if part.turned[picture]:
                raise DataError(
                    f"{part.path(picture)}: EXIF turns it, and its outlines were drawn on the picture as it is stored; "
                    "save it upright with its annotations, or drop=masks"
                )


def refuse_names(classes: ClassMap, format: str) -> None:
    """DataError for class names that the format would read otherwise: with spaces around, or not printable."""
    for name in classes.names:
        if name != name.strip() or not name.isprintable() or len(name) > 400:
            raise DataError(f"the class name {name[:60]!r} cannot stand in {format}; rename it")


@dataclass
class Polygonised:
    """Outlines that became polygons: how many, the mean IoU with what they were, the least and whose that is."""

    changed: int = 0
    total: float = 0.0
    least: float = 1.0
    whose: str = ""

    def __str__(self) -> str:
        mean = self.total / max(self.changed, 1)
        least = f", {self.whose}" if self.least < 1 else ""
        return f"{self.changed} outlines became polygons: IoU {mean:.4f} on average, {self.least:.4f} at least{least}"


def polygonised(parts: Parts, single: bool) -> tuple[Parts, Polygonised]:
    """Every outline as polygons (as one, where a format holds only that), and what that changed."""
    report = Polygonised()
    chosen = {}
    for name, part in parts.items():
        a = part.annotations
        if a.segments is None:
            chosen[name] = part
            continue
        written: list[Written] = [None] * len(a.labels)
        for picture, row, outline in outlines(part):
            height, width = np.asarray(a.sizes)[picture].tolist()
            polygons, overlap = as_polygons(outline, height, width, single)
            written[row] = polygons or None
            if polygons != outline:
                report.changed, report.total = report.changed + 1, report.total + overlap
                if overlap < report.least:
                    report.least, report.whose = overlap, f"an object of {part.id(picture)}"
        chosen[name] = with_annotations(part, replace(a, segments=Segments.of(written)))
    return chosen, report


def picture_names(parts: Parts, together: bool, by_stem: bool) -> dict[str, list[str]]:
    """What the pictures are called in the new data set, by split: their paths without the folders that all share.

    together: all splits lie in one folder. by_stem: annotation files are called as pictures are, without suffix.
    Raises DataError naming two pictures that would get the same name.
    """
    names = {split: _shortened([part.id(i) for i in range(len(part))]) for split, part in parts.items()}
    if together and _clash(parts, names, together, by_stem):
        whole = iter(_shortened([part.id(i) for part in parts.values() for i in range(len(part))]))
        names = {split: [next(whole) for _ in own] for split, own in names.items()}
    if odd := next((name for own in names.values() for name in own if not name.isprintable()), None):
        raise DataError(f"the picture's name {odd!r} cannot stand in a text file; rename it")
    if clash := _clash(parts, names, together, by_stem):
        raise DataError(f"{clash[0]} and {clash[1]} would get the same name; rename one of them")
    return names


def _clash(
    parts: Parts, names: dict[str, list[str]], together: bool, by_stem: bool
) -> tuple[str, str] | None:
    seen: dict[tuple[str, str], str] = {}
    for split, own in names.items():
        for i, name in enumerate(own):
            path = str(parts[split].path(i))
            key = ("" if together else split, os.path.splitext(name)[0] if by_stem else name)
            if seen.setdefault(key, path) != path:
                return seen[key], path
    return None


def _shortened(ids: list[str]) -> list[str]:
    folders = {os.path.dirname(id) for id in ids}
    common = "" if "" in folders or not folders else os.path.commonpath(folders)
    return [os.path.relpath(id, common or ".") for id in ids]


def extras_of(parts: Parts) -> str:
    """What is said of annotations that only their own format has, where there are any."""
    kept: Counter[str] = Counter()
    for part in parts.values():
        for name, values in part.annotations.extras.items():
            plain = values.astype(bool) if values.dtype == bool else ~np.isin(values, (b"", b"Unspecified"))
            kept[name] += int(plain.sum())
    return ", ".join(f"{name} of {number} objects" for name, number in kept.items() if number)
