"""Picture files under one root: what every data set on disk has in common, and how files fall into splits."""

import copy
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from retinue.datasets.pictures import read_picture
from retinue.datasets.targets import ClassMap, DataError

log = logging.getLogger(__name__)

SPLITS = {
    **{"train": "train", "training": "train"},
    **{"val": "val", "valid": "val", "validation": "val"},
    **{"test": "test", "testing": "test"},
}
"""What people call the splits (lower case) -> what we call them."""

VALIDATION = 0.2
"""The part of each class that is held out where the data come without splits."""

HELD_OUT = (
    f"the data have no splits of their own: {VALIDATION:.0%} of each class, by a hash of the path, is val"
)


class PictureFiles:
    """Picture files under one root, with the classes of what they show.

    paths: relative to the root, with "/"; they are the samples' ids. channels: what the pictures are read as.
    skipped: (file, reason) of those left out. remarks: what a user should know of this split, in short
    sentences.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        paths: Sequence[str] | np.ndarray,
        classes: ClassMap,
        channels: int = 3,
    ) -> None:
        self.root, self.split, self.classes, self.channels = root, split, classes, channels
        self._paths = paths if isinstance(paths, np.ndarray) else as_bytes(paths)
        self.skipped: list[tuple[Path, str]] = []
        self.remarks: list[str] = []
        self._said: set[str] = set()

    def __len__(self) -> int:
        return len(self._paths)

    def id(self, index: int) -> str:
        """The path of a picture relative to the root, with "/"."""
        return os.fsdecode(bytes(self._paths[index]))

    def path(self, index: int) -> Path:
        """The picture file of a sample."""
        return self.root / self.id(index)

    def read(self, index: int) -> np.ndarray:
        """The picture, (h, w, channels) uint8, upright. Raises PictureError where the file cannot be read."""
        image, notes = read_picture(self.path(index), self.channels)
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                log.info("%s: %s (said once)", self.path(index), note)
        return image

    def select(self, kept: np.ndarray) -> Self:
        """A copy with only the samples of a mask (n,) bool or of an array of indices."""
        chosen = copy.copy(self)
        chosen._paths = self._paths[kept]
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
