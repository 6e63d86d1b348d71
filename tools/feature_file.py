"""Features that are computed once and read often: appended to a file, then mapped into memory."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np


class FeatureFile:
    """Arrays that batches add rows to, as many as the disk holds. The files have no names: whatever ends the process
    frees their space too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.columns: list[_Column] = []

    def add(self, arrays: Sequence[np.ndarray]) -> None:
        """The next rows of every column: arrays (n, ...), of the same types and further sides as before."""
        if not self.columns:
            self.columns = [_Column(self.folder, array) for array in arrays]
        for column, array in zip(self.columns, arrays, strict=True):
            column.add(array)

    def arrays(self) -> list[np.ndarray]:
        """All rows of every column, mapped into memory."""
        return [column.array() for column in self.columns]


class _Column:
    def __init__(self, folder: Path, first: np.ndarray) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, open as long as it is mapped
        self.dtype, self.sides, self.rows = first.dtype, first.shape[1:], 0

    def add(self, array: np.ndarray) -> None:
        assert array.dtype == self.dtype and array.shape[1:] == self.sides
        self.file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def array(self) -> np.ndarray:
        shape = (self.rows, *self.sides)
        if not self.rows:  # of nothing there is no map
            return np.empty(shape, self.dtype)
        self.file.flush()
        return np.memmap(self.file, self.dtype, "c", shape=shape)
