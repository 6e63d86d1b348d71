"""Pictures with one label each: what an image folder and a CSV list have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from retinue.datasets.picture_files import PictureFiles
from retinue.datasets.targets import ClassMap, DataError, Sample


class LabelledPictures(PictureFiles):
    """Picture files under one root, each with one class.

    labels: (n,) int64, class index by sample. Annotations are flat arrays, which workers share.
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
        super().__init__(root, split, paths, classes, channels)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.id(index), self.read(index), {"label": np.array(self.labels[index])})

    def class_counts(self) -> np.ndarray:
        """(classes,) int64, the number of pictures of each class."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def select(self, kept: np.ndarray) -> Self:
        """A copy with only the samples of a mask (n,) bool or of an array of indices."""
        chosen = super().select(kept)
        chosen.labels = self.labels[kept]
        return chosen

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


def class_map(values: set[str]) -> ClassMap:
    """Classes sorted by name; whole numbers are sorted as numbers and keep them as ids."""
    if values and all(value.lstrip("-").isdecimal() and str(int(value)) == value for value in values):
        numbers = sorted(int(value) for value in values)
        return ClassMap(tuple(str(number) for number in numbers), tuple(numbers))
    names = tuple(sorted(values))
    return ClassMap(names, names)
