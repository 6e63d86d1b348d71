"""Find the pictures that cannot be used before training starts, instead of hours into it."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, Self, TypeVar

from retinue.datasets.pictures import PictureError, check_picture
from retinue.datasets.targets import DataError

Progress = Callable[[int, int], None]
"""Told how many are done, of how many."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class OfFiles(Protocol):
    """A data set whose pictures are files."""

    channels: int

    def __len__(self) -> int: ...

    def path(self, index: int) -> Path:
        """The picture file of a sample."""
        ...

    def without(self, bad: list[tuple[Path, str]]) -> Self:
        """The same data set without these files, which are added to its `skipped`."""
        ...


FileData = TypeVar("FileData", bound=OfFiles)


def scan(
    dataset: OfFiles,
    workers: int = 2,
    progress: Progress | None = None,
    notes: Counter[str] | None = None,
    sizes: dict[Path, tuple[int, int]] | None = None,
) -> list[tuple[Path, str]]:
    """(file, reason) of each picture file of a data set that cannot be read whole, in order.

    Every file is read as far as is needed to be sure. `notes` counts what reading does to odd ones, by kind; `sizes`
    is given (height, width) of the others as they are shown.
    """

    def judge(path: Path) -> tuple[str, tuple[str, ...], tuple[int, int]]:
        try:
            header = check_picture(path)
            return "", header.notes(dataset.channels, suffix=path.suffix), header.size
        except PictureError as error:
            return str(error).removeprefix(f"{path}: "), (), (0, 0)

    paths = [dataset.path(i) for i in range(len(dataset))]
    answers = in_threads(judge, paths, workers, progress)
    if notes is not None:
        notes.update(note for _, kinds, _ in answers for note in kinds)
    if sizes is not None:
        sizes |= {path: size for path, (reason, _, size) in zip(paths, answers) if not reason}
    return [(path, reason) for path, (reason, *_) in zip(paths, answers) if reason]


def usable(
    dataset: FileData,
    workers: int = 2,
    progress: Progress | None = None,
    strict: bool = False,
    notes: Counter[str] | None = None,
    sizes: dict[Path, tuple[int, int]] | None = None,
) -> FileData:
    """The data set without the pictures that `scan` finds wanting; they are named in its `skipped`.

    strict: raise DataError, naming them all, instead. Raises DataError too where nothing is left.
    """
    bad = scan(dataset, workers, progress, notes, sizes)
    if bad and strict:
        named = "\n".join(f"  {path}: {reason}" for path, reason in bad)
        raise DataError(f"{len(bad)} of {len(dataset)} pictures cannot be used:\n{named}")
    return dataset.without(bad) if bad else dataset


def in_threads(
    function: Callable[[Item], Answer], items: list[Item], workers: int, progress: Progress | None = None
) -> list[Answer]:
    """`function` of each item, in order, by threads: decoders release Python's lock."""
    answers: list[Answer] = []
    step = 256  # keeps the queue short, and the progress lively
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for start in range(0, len(items), step):
            answers += pool.map(function, items[start : start + step])
            if progress is not None:
                progress(len(answers), len(items))
    return answers
