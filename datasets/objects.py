"""Pictures with objects: boxes, and perhaps masks and keypoints; what every detection format ends in."""

import copy
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from retinue.datasets.annotations import Annotations
from retinue.datasets.box_checks import box_problem, clean_boxes, duplicates, suspicions
from retinue.datasets.picture_files import VALIDATION, PictureFiles, held_out
from retinue.datasets.pictures import PictureError, orient, read_header
from retinue.datasets.problem import Problem
from retinue.datasets.scan import in_threads
from retinue.datasets.segments import Segments
from retinue.datasets.targets import IGNORE, ClassMap, DataError, Sample


class ObjectPictures(PictureFiles):
    """The pictures of one split with their objects; pictures without any are negatives, and stay.

    annotations: as a format reads them; what cannot be used is taken out here, once, and named by `problems()`:
    boxes that are not finite, empty or outside, with a tolerance of one pixel for what merely sticks out; pictures
    that cannot be opened or whose size is not the stated one (`skipped`). Where the stated size is the stored
    one of a picture that EXIF turns by a quarter, the annotation was made without EXIF, and is turned with the
    picture. `annotations.sizes` are then the sizes of the upright pictures. found, skipped: problems and files
    that the format met. fractions: coordinates are parts of the picture's width and height, as in YOLO's files.
    Objects with outlines also give `semantic`, painted from them: the smaller over the larger, under them crowd regions
    and the boxes of objects without an outline, which are ignored; what nothing covers is background.
    Indexing gives a `Sample` with the targets of `keys`; it raises PictureError where the file cannot be read.
    Raises DataError where no picture can be used.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        annotations: Annotations,
        classes: ClassMap,
        channels: int = 3,
        found: Iterable[Problem] = (),
        skipped: Iterable[tuple[Path, str]] = (),
        fractions: bool = False,
    ) -> None:
        super().__init__(root, split, annotations.paths, classes, channels)
        self.skipped += skipped
        self._problems = list(found)
        self._frames = np.ones(len(annotations), np.uint8)
        self.annotations = annotations
        self.keys = frozenset({"boxes", "box_labels"} | _optional(annotations).keys())
        if annotations.segments is not None and len(classes) < IGNORE:
            self.keys |= {"semantic"}
        self._semantic_classes: ClassMap | None = None
        self._open(fractions)
        self._clean()

    def _open(self, fractions: bool) -> None:
        """Read every picture's header: what cannot be opened or has another size leaves; turned frames are turned."""
        paths = [self.path(i) for i in range(len(self))]
        headers = in_threads(_header, paths, workers=4)
        stated = self.annotations.sizes
        sizes = np.zeros((len(self), 2), np.int32)
        bad: list[tuple[Path, str]] = []
        for i, (path, header) in enumerate(zip(paths, headers)):
            if isinstance(header, str):
                bad.append((path, header))
                continue
            sizes[i] = header.size
            said = (0, 0) if stated is None else tuple(stated[i].tolist())
            if said == header.size or 0 in said:
                continue
            if said == header.size[::-1] and header.orientation >= 5:
                self._frames[i] = header.orientation
                self._problems.append(_turned(path, said, header.orientation))
            else:
                self._problems.append(problem := _another_size(path, said, header.size))
                bad.append((path, f"{problem.value}; {problem.remedy}"))
        self.annotations = replace(self.annotations, sizes=sizes)
        if bad:
            left = self.without(bad)
            self._paths, self._frames, self.skipped = left._paths, left._frames, left.skipped
            self.annotations = left.annotations
        if fractions:
            self.annotations = self.annotations.in_pixels()
        if (self._frames > 1).any():
            self.annotations = self.annotations.turned(self._frames)

    def _clean(self) -> None:
        """Clip boxes, leave out those that nothing is left of, and say so."""
        a = self.annotations
        pictures, sizes = a.pictures, a.object_sizes()
        boxes, kept, faults = clean_boxes(a.boxes, sizes)
        if a.segments is not None:
            stored = np.where(self._frames[pictures, None] >= 5, sizes[:, ::-1], sizes)
            wrong = kept & (a.segments.sizes != stored).any(1) & a.segments.sizes.any(1)
            kept &= ~wrong
            faults |= dict.fromkeys(np.flatnonzero(wrong).tolist(), "outline of another size")
        self._problems += [
            box_problem(kind, str(self.path(pictures[row])), self._name(row), a.boxes[row], sizes[row])
            for row, kind in faults.items()
        ]
        self.annotations = replace(a, boxes=boxes).keep(kept)
        if faults:
            text = ", ".join(f"{count} {kind}" for kind, count in Counter(faults.values()).items())
            self.remarks.append(f"mended or left out: {text}; retinue check names them")
        if (outlines := self.annotations.segments) is not None and not outlines.drawn.all():
            bare = int((~outlines.drawn).sum())
            self.remarks.append(
                f"{bare} of {len(outlines)} objects have no outline, so their masks are empty"
            )

    def _name(self, row: int) -> str:
        a = self.annotations
        if a.object_ids is not None:
            return f"annotation {a.object_ids[row]}"
        return f"object {row - a.offsets[np.searchsorted(a.offsets, row, 'right') - 1]}"

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            index += len(self)
        image, a = self.read(index), self.annotations
        height, width = np.asarray(a.sizes)[index].tolist()
        if image.shape[:2] != (height, width):
            raise DataError(
                f"{self.path(index)}: is {image.shape[1]}x{image.shape[0]} now, was {width}x{height}; "
                "the file changed: start again"
            )
        rows = slice(*a.offsets[index : index + 2])
        targets = {
            "boxes": a.boxes[rows].astype(np.float32),
            "box_labels": a.labels[rows].copy(),
        }
        for key, (values, dtype) in _optional(a).items():
            if key in self.keys and not isinstance(values, Segments):
                targets[key] = values[rows].astype(dtype)
        if a.segments is not None and "masks" in self.keys:
            targets["masks"] = self._masks(a.segments, index, rows)
        if a.segments is not None and "semantic" in self.keys:
            targets["semantic"] = self._semantic(a.segments, index, rows)
        return Sample(self.id(index), image, {k: v for k, v in targets.items() if k in self.keys})

    def _masks(self, segments: Segments, index: int, rows: slice) -> np.ndarray:
        masks = segments.decode(range(rows.start, rows.stop), *self._stored(index))
        return np.ascontiguousarray(self._upright(index, masks.transpose(1, 2, 0)).transpose(2, 0, 1))

    def _semantic(self, segments: Segments, index: int, rows: slice) -> np.ndarray:
        a, classes = self.annotations, self.semantic_classes
        every = np.arange(rows.start, rows.stop)
        crowd = np.zeros(len(every), bool) if a.crowd is None else a.crowd[rows]
        values = np.array([_matched(*each, classes) for each in zip(self.classes.names, self.classes.ids)])
        canvas = np.full(self._stored(index), NOTHING, np.int64)
        segments.paint(canvas, every[crowd], np.full(len(every), IGNORE))
        segments.paint(canvas, every[~crowd], values[a.labels[rows][~crowd]])
        canvas = np.ascontiguousarray(self._upright(index, canvas))
        free = canvas == NOTHING
        canvas[free] = classes.names.index(BACKGROUND)
        for x1, y1, x2, y2 in a.boxes[rows][~segments.select(every).drawn].tolist():
            part = (slice(math.floor(y1), math.ceil(y2)), slice(math.floor(x1), math.ceil(x2)))
            canvas[part][free[part]] = IGNORE
        return canvas

    def _stored(self, index: int) -> tuple[int, int]:
        """Height and width of the frame that outlines lie in."""
        height, width = np.asarray(self.annotations.sizes)[index].tolist()
        return (height, width) if self._frames[index] < 5 else (width, height)

    def _upright(self, index: int, image: np.ndarray) -> np.ndarray:
        return orient(image, int(self._frames[index]))

    @property
    def turned(self) -> np.ndarray:
        """(pictures,) bool, those that EXIF turns under annotations of the stored frame: `segments` stay in that."""
        return self._frames > 1

    @property
    def empty(self) -> int:
        """The number of pictures without objects."""
        return int((np.diff(self.annotations.offsets) == 0).sum())

    def class_counts(self) -> np.ndarray:
        """(classes,) int64, the number of objects of each class."""
        return np.bincount(self.annotations.labels, minlength=len(self.classes))

    def box_sizes(self) -> np.ndarray:
        """(objects, 2) float64, width and height of every box, crowds aside, in parts of its picture's longer side."""
        a = self.annotations
        sizes = (a.boxes[:, 2:] - a.boxes[:, :2]) / a.object_sizes().max(1, initial=1)[:, None]
        return sizes if a.crowd is None else sizes[~a.crowd]

    def image_id(self, index: int) -> int | str:
        """The picture's id in the original file, or its path where it has none."""
        ids = self.annotations.image_ids
        if ids is None:
            return self.id(index)
        return ids[index].decode("utf-8") if ids.dtype.kind == "S" else int(ids[index])

    def problems(self) -> Iterator[Problem]:
        """What was wrong with the annotations, and what looks doubtful in those that are left."""
        yield from self._problems
        a = self.annotations
        pictures = a.pictures
        for row, first in duplicates(a.boxes, a.labels, pictures):
            value = f"{self._name(row)} {a.boxes[row].tolist()} is {self._name(first)} again"
            path = str(self.path(pictures[row]))
            yield Problem("warning", "duplicate box", path, value, "remove one")
        yield from suspicions(str(self.root), a.boxes, a.object_sizes(), self.classes)

    def select(self, kept: np.ndarray) -> Self:
        """A copy with only the samples of a mask (n,) bool or of an array of indices."""
        chosen = super().select(kept)
        chosen.annotations, chosen._frames = self.annotations.select(kept), self._frames[kept]
        chosen._problems = list(self._problems)
        return chosen

    def with_keys(self, keys: Collection[str]) -> Self:
        """A copy whose samples have only these of its targets: masks are not decoded in vain."""
        chosen = copy.copy(self)
        chosen.keys = self.keys & frozenset(keys)
        return chosen

    def with_classes(self, classes: ClassMap) -> Self:
        """A copy with the class indices of another map: a model's, for instance.

        Matched by name, so that whole-number ids from 0 and from 1 cannot be taken for each other; where the name
        is not there, by an id that is a word. Raises DataError naming the classes in use that the other map lacks.
        """
        index = [_matched(name, id, classes) for name, id in zip(self.classes.names, self.classes.ids)]
        used = np.unique(self.annotations.labels).tolist()
        if unknown := [self.classes.names[i] for i in used if index[i] < 0]:
            raise DataError(
                f"{self.root}: the classes {unknown} of split {self.split!r} are not among "
                f"{list(classes.names)}; rename them, remove them, or train with them"
            )
        chosen = copy.copy(self)
        labels = np.array(index, np.int64)[self.annotations.labels]
        chosen.classes, chosen.annotations = classes, replace(self.annotations, labels=labels)
        return chosen

    @property
    def semantic_classes(self) -> ClassMap:
        """The classes of `semantic`: background, and those of the objects."""
        own = self.classes
        if self._semantic_classes is not None or BACKGROUND in own.names:
            return self._semantic_classes or own
        id = 0 if 0 not in own.ids and all(isinstance(each, int) for each in own.ids) else BACKGROUND
        return ClassMap((BACKGROUND, *own.names), (id, *own.ids))

    def with_semantic_classes(self, classes: ClassMap) -> Self:
        """A copy with the class indices of another map in `semantic`, matched as `with_classes` does.

        Raises DataError naming background or the classes in use where the other map lacks them.
        """
        used = {self.classes.names[i] for i in np.unique(self.annotations.labels).tolist()}
        own = zip(self.semantic_classes.names, self.semantic_classes.ids)
        missing = [
            name for name, id in own if name in used | {BACKGROUND} and _matched(name, id, classes) < 0
        ]
        if missing:
            raise DataError(
                f"{self.root}: the classes {missing} of split {self.split!r} are not among {list(classes.names)}; "
                "rename them, remove them, or train with them"
            )
        chosen = copy.copy(self)
        chosen._semantic_classes = classes
        return chosen


BACKGROUND = "background"
"""The class of `semantic` that no object has."""

NOTHING = -1
"""In `semantic` while it is painted, what no outline covers."""

HELD_OUT = (
    f"the data have no splits of their own: {VALIDATION:.0%} of the pictures, by a hash of the path, is val"
)


Whole = TypeVar("Whole", bound=PictureFiles)


def divided(whole: Whole) -> dict[str, Whole]:
    """ "train" and "val" of pictures without splits; of a single picture "train" alone."""
    held = held_out(whole._paths, np.zeros(len(whole), np.int64))
    parts = {name: whole.select(chosen) for name, chosen in (("train", ~held), ("val", held)) if chosen.any()}
    for name, part in parts.items():
        part.split = name
        part.remarks.append(HELD_OUT)
    return parts


def _optional(a: Annotations) -> dict[str, tuple[Any, type]]:
    """Key -> (what the annotations have of it, type of the target), for the keys that they have."""
    known: dict[str, tuple[Any, type]] = {
        "crowd": (a.crowd, np.bool_),
        "area": (a.area, np.float32),
        "masks": (a.segments, np.bool_),
        "keypoints": (a.keypoints, np.float32),
    }
    return {key: (values, dtype) for key, (values, dtype) in known.items() if values is not None}


def _header(path: Path) -> Any:
    try:
        return read_header(path)
    except PictureError as error:
        return str(error).removeprefix(f"{path}: ")


def _turned(path: Path, said: tuple[int, int], orientation: int) -> Problem:
    value = (
        f"EXIF orientation {orientation} turns it; the annotation states {said[1]}x{said[0]}, as it is stored: "
        "its boxes are taken to be in the stored frame, and turned with the picture"
    )
    return Problem("warning", "EXIF orientation", str(path), value, "look at it drawn")


def _another_size(path: Path, said: tuple[int, int], size: tuple[int, int]) -> Problem:
    value = f"the annotation states {said[1]}x{said[0]}, the file has {size[1]}x{size[0]}"
    return Problem("error", "size mismatch", str(path), value, "use the picture that was annotated")


def _matched(name: str, id: int | str, classes: ClassMap) -> int:
    if name in classes.names:
        return classes.names.index(name)
    return classes.ids.index(id) if isinstance(id, str) and id in classes.ids else -1
