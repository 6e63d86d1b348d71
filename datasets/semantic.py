"""Pictures with a mask each, whose pixels are classes: what every format of semantic segmentation ends in."""

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from retinue.datasets.mask_checks import doubts
from retinue.datasets.mask_classes import UNKNOWN, MaskClasses, shown
from retinue.datasets.mask_files import MaskSeen, read_codes, stripes, upright
from retinue.datasets.picture_files import PictureFiles, as_bytes
from retinue.datasets.problem import Problem
from retinue.datasets.targets import IGNORE, ClassMap, DataError, Sample


class Pairs(NamedTuple):
    """The pictures and the masks of one split as a format found them, relative to the root with "/".

    skipped: (picture file, reason) of those without a mask. found: what else is wrong. remarks: for the user.
    """

    pictures: list[str]
    masks: list[str]
    skipped: list[tuple[Path, str]]
    found: list[Problem]
    remarks: list[str]


class SemanticPictures(PictureFiles):
    """The pictures of one split with a class at every pixel.

    pairs: those whose masks can be read. seen: what each mask holds. coding: what its values mean; all that occur are
    known to it. Indexing gives a `Sample` with `semantic` (h, w) int64; it raises PictureError where a file cannot be
    read, and DataError where one changed since it was looked at.
    """

    keys = frozenset({"semantic"})

    def __init__(
        self, root: Path, split: str, pairs: Pairs, seen: list[MaskSeen], coding: MaskClasses
    ) -> None:
        super().__init__(root, split, pairs.pictures, coding.classes)
        self.skipped += pairs.skipped
        self.remarks += pairs.remarks
        self.coding = coding
        self._problems = list(pairs.found)
        self._masks = as_bytes(pairs.masks)
        self._frames = np.array([one.frame for one in seen], np.uint8)
        self._codes = np.unique(np.concatenate([one.codes for one in seen]))
        self._pixels = np.zeros((len(seen), len(self._codes)), np.int64)
        for row, one in zip(self._pixels, seen):
            row[np.searchsorted(self._codes, one.codes)] = one.counts
        self._mixed = np.array([one.mixed for one in seen], np.float32)
        if doubtful := int((self._mixed > 0).sum()):
            self.remarks.append(
                f"{doubtful} masks may have been resized by interpolation; retinue check names them"
            )

    def mask_path(self, index: int) -> Path:
        """The mask file of a sample."""
        return self.root / os.fsdecode(bytes(self._masks[index]))

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            index += len(self)
        image, path = self.read(index), self.mask_path(index)
        codes = upright(read_codes(path, self.coding.by_colour), int(self._frames[index]))
        if codes.shape != image.shape[:2]:
            raise DataError(
                f"{path}: is of another size than {self.path(index)}; the file changed: start again"
            )
        semantic = np.empty(codes.shape, np.int64)
        for start, stop in stripes(*codes.shape):
            part = semantic[start:stop] = self.coding.index(codes[start:stop])
            if (strange := part == UNKNOWN).any():
                what = shown(int(codes[start:stop][strange][0]), self.coding.by_colour)
                raise DataError(f"{path}: holds {what} now; the file changed: start again")
        return Sample(self.id(index), image, {"semantic": semantic})

    def picture_counts(self) -> np.ndarray:
        """(pictures, classes) int64, the number of pixels of each class in each picture."""
        index = self._index()
        return np.stack([self._pixels[:, index == i].sum(1) for i in range(len(self.classes))], 1)

    def pixel_counts(self) -> np.ndarray:
        """(classes,) int64, the number of pixels of each class in all pictures."""
        return self.picture_counts().sum(0)

    def class_counts(self) -> np.ndarray:
        """(classes,) int64, the number of pictures that show each class."""
        return np.count_nonzero(self.picture_counts(), 0)

    @property
    def ignored(self) -> int:
        """The number of pixels that do not count."""
        return int(self._pixels[:, self._index() == IGNORE].sum())

    def _index(self) -> np.ndarray:
        return self.coding.index(self._codes)

    def problems(self) -> Iterator[Problem]:
        """What was wrong with the masks, and what looks doubtful in those that are left."""
        yield from self._problems
        turned = np.flatnonzero(self._frames > 1).tolist()
        for i in turned:
            value = f"EXIF orientation {self._frames[i]} turns the picture; its mask, made without, is turned with it"
            yield Problem("warning", "EXIF orientation", str(self.path(i)), value, "look at it drawn")
        for i in np.flatnonzero(self._mixed).tolist():
            value = f"values lie between their neighbours' on {self._mixed[i]:.0%} of the borders: resized?"
            yield Problem("warning", "in-between values", str(self.mask_path(i)), value, "look at it drawn")
        ignored = self._pixels[:, self._index() == IGNORE].sum(1) / self._pixels.sum(1)
        paths = [str(self.mask_path(i)) for i in np.flatnonzero(ignored == 1).tolist()]
        yield from doubts(self.split, self.coding, self._codes, self._pixels.sum(0), paths)

    def select(self, kept: np.ndarray) -> Self:
        """A copy with only the samples of a mask (n,) bool or of an array of indices."""
        chosen = super().select(kept)
        chosen._masks, chosen._frames = self._masks[kept], self._frames[kept]
        chosen._pixels, chosen._mixed = self._pixels[kept], self._mixed[kept]
        return chosen

    def with_classes(self, classes: ClassMap) -> Self:
        """A copy with the class indices of another map, a model's for instance, matched by name.

        Raises DataError naming the classes that occur here and that the other map lacks.
        """
        used = self.pixel_counts() > 0
        missing = [
            name for name, there in zip(self.classes.names, used) if there and name not in classes.names
        ]
        if missing:
            raise DataError(
                f"{self.root}: the classes {missing} of split {self.split!r} are not among {list(classes.names)}; "
                "rename them, or ignore them: values=VALUE:ignore,..."
            )
        chosen = copy.copy(self)
        chosen.classes, chosen.coding = classes, self.coding.with_classes(classes)
        return chosen
