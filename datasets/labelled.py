"""Pictures with one label each: what an image folder and a CSV list have in common."""

import copy
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from retinue.datasets.pictures import read_picture
from retinue.datasets.targets import ClassMap, DataError, Sample

log = logging.getLogger(__name__)

SPLITS = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
"""What people call the splits (lower case) -> what we call them."""

VALIDATION = 0.2
"""The part of each class that is held out where the data come without splits."""


class LabelledPictures:
    """Picture files under one root, each with one class.

    paths: relative to the root, with "/"; they are the samples' ids. labels: (n,) int64, class index by sample.
    channels: what the pictures are read as. skipped: (file, reason) of those left out. remarks: what a user
    should know of this split, in short sentences. Annotations are flat arrays, which workers share.
    Indexing gives a `Sample` with `label`; it raises PictureError where the file cannot be read.
    """

    keys = frozenset({"label"})

    def __init__(
        self,
        root: Path,
        split: str,
        paths: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        classes: ClassMap,
        channels: int = 3,
    ) -> None:
        self.root, self.split, self.classes, self.channels = root, split, classes, channels
        self._paths = as_bytes(paths)
        self.labels = np.asarray(labels, dtype=np.int64)
        self.skipped: list[tuple[Path, str]] = []
        self.remarks: list[str] = []
        self._said: set[str] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def id(self, index: int) -> str:
        """The path of a picture relative to the root, with "/"."""
        return os.fsdecode(bytes(self._paths[index]))

    def path(self, index: int) -> Path:
        """The picture file of a sample."""
        return self.root / self.id(index)

    def __getitem__(self, index: int) -> Sample:
        image, notes = read_picture(self.path(index), self.channels)
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                log.info("%s: %s (said once)", self.path(index), note)
        return Sample(self.id(index), image, {"label": np.array(self.labels[index])})

    def class_counts(self) -> np.ndarray:
        """(classes,) int64, the number of pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def select(self, kept: np.ndarray) -> Self:
        """A copy with only the samples of a mask (n,) bool or of an array of indices."""
        chosen = copy.copy(self)
        chosen._paths, chosen.labels = self._paths[kept], self.labels[kept]
        chosen.skipped, chosen.remarks, chosen._said = list(self.skipped), list(self.remarks), set()
        return chosen

    def without(self, bad: list[tuple[Path, str]]) -> Self:
        """A copy without these files, which are named in its `skipped`. DataError where nothing is left."""
        unwanted = {path for path, _ in bad}
        left = self.select(np.array([self.path(i) not in unwanted for i in range(len(self))], dtype=bool))
        left.skipped += bad
        if not len(left):
            first = f"{bad[0][0]}: {bad[0][1]}" if bad else "there was none"
            raise DataError(
                f"{self.root}: no picture of split {self.split!r} can be used; the first: {first}"
            )
        return left

    def with_classes(self, classes: ClassMap) -> Self:
        """A copy with the class indices of another map, matched by id: a model's, for instance.

        Raises DataError where pictures have a class that the other map lacks.
        """
        used = {int(label) for label in np.unique(self.labels)}
        here, there = ([str(id) for id in value.ids] for value in (self.classes, classes))
        if unknown := [here[i] for i in sorted(used) if here[i] not in there]:
            raise DataError(
                f"{self.root}: the classes {unknown} of split {self.split!r} are not among "
                f"{there}; rename them, remove them, or train with them"
            )
        index = np.array([there.index(id) if id in there else -1 for id in here], np.int64)
        chosen = self.select(np.arange(len(self)))
        chosen.classes, chosen.labels = classes, index[self.labels]
        return chosen


HELD_OUT = (
    f"the data have no splits of their own: {VALIDATION:.0%} of each class, by a hash of the path, is val"
)


def held_out(paths: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which samples (n,) bool are validation: in each class those with the smallest SHA-1 of their path (bytes).

    Neither the order of the files nor the machine matters; a class of one picture keeps it for training.
    """
    chosen = np.zeros(len(labels), bool)
    hashes = np.array([hashlib.sha1(bytes(path)).hexdigest() for path in paths])
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(round(VALIDATION * len(members)), 1) if len(members) > 1 else 0
        chosen[members[np.argsort(hashes[members])[:count]]] = True
    return chosen


def as_bytes(paths: Sequence[str]) -> np.ndarray:
    """Paths as one flat array of bytes: lists of str grow in every worker that touches them."""
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)


def class_map(values: set[str]) -> ClassMap:
    """Classes sorted by name; whole numbers are sorted as numbers and keep them as ids."""
    if values and all(value.lstrip("-").isdecimal() and str(int(value)) == value for value in values):
        numbers = sorted(int(value) for value in values)
        return ClassMap(tuple(str(number) for number in numbers), tuple(numbers))
    names = tuple(sorted(values))
    return ClassMap(names, names)
