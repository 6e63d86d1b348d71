"""From a data set to batches: order, sharing among processes, augmentation and workers, all a function of the seed."""

import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.multiprocessing
from torch.utils.data import DataLoader

from retinue.datasets.targets import DataError, Pictures, Sample, Target, Transform, collate

Key = tuple[int, int]
"""(epoch, index): what a worker needs to know to draw a sample's augmentation."""


KEPT = 256 * 2**20
"""Bytes of rendered samples that each loading process keeps."""


class View:
    """A data set seen through a transform. Reading errors come back as values, so that their text stays clean.

    Only the targets of `keys` are read and kept, and of the inputs those of `inputs` (default: all), so that nothing is
    decoded or moved in vain. `file_frame` keeps the targets as the data set gives them, in the file's pixels, for
    evaluation. `late`: an epoch, and the transform of it and of all that follow.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Transform,
        keys: Collection[str],
        seed: int = 0,
        file_frame: bool = False,
        inputs: Collection[str] | None = None,
        late: tuple[int, Transform] | None = None,
    ) -> None:
        if hasattr(dataset, "with_keys"):
            dataset = dataset.with_keys(frozenset(keys) & dataset.keys)
        self.dataset, self.transform, self.keys = dataset, transform, keys
        self.seed, self.file_frame, self.inputs = seed, file_frame, inputs
        self.late = late
        self.kept: dict[int, Sample] = {}
        self.kept_bytes = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Sample:
        """The sample before any transform; indices past the end begin again, so that mosaic may draw any.

        What is rendered costs more than it weighs: samples of a data set that is `rendered` are kept, up to KEPT.
        """
        index %= len(self.dataset)
        if index in self.kept:
            return self.kept[index]
        sample = self.dataset[index]
        inputs = {k: v for k, v in sample.inputs.items() if self.inputs is None or k in self.inputs}
        sample = sample.with_(
            targets={k: v for k, v in sample.targets.items() if k in self.keys}, inputs=inputs
        )
        size = sample.image.nbytes + sum(value.nbytes for value in sample.targets.values())
        if getattr(self.dataset, "rendered", False) and self.kept_bytes + size <= KEPT:
            self.kept[index] = sample
            self.kept_bytes += size
        return sample

    def __getitem__(self, key: Key) -> Sample | DataError:
        epoch, index = key
        transform = self.late[1] if self.late and epoch >= self.late[0] else self.transform
        try:
            sample = self.read(index)
            rng = np.random.default_rng((self.seed, epoch, index))
            if self.file_frame:
                return transform(sample.with_(targets={}), rng, self.read).with_(targets=sample.targets)
            return transform(sample, rng, self.read)
        except DataError as error:
            return error


class Collate:
    """Samples -> (Pictures, targets); a sample that is an error makes the batch that error."""

    def __init__(self, pad: float | Sequence[float], divisor: int) -> None:
        self.pad, self.divisor = pad, divisor

    def __call__(self, samples: Sequence[Sample | DataError]) -> tuple[Pictures, list[Target]] | DataError:
        """The batch, or the first error among the samples."""
        good: list[Sample] = []
        for sample in samples:
            if isinstance(sample, DataError):
                return sample
            good.append(sample)
        return collate(good, self.pad, self.divisor)


def start_worker(_: int) -> None:
    """One thread a worker: OpenCV's pool deadlocks after a fork, and the cores are shared anyway."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def batches_an_epoch(count: int, batch: int, ranks: int = 1) -> int:
    """How many batches an epoch of `count` pictures has, so that each of `ranks` processes has one in every batch."""
    return max(1, min(-(-count // batch), count // ranks))


def epoch_batches(
    count: int, batch: int, seed: int, epoch: int, ranks: int = 1, sizes: np.ndarray | None = None
) -> list[np.ndarray]:
    """A training epoch's batches of indices: every picture once, batch sizes differing by at most one.

    The larger batches come first, so that what does not fit into memory shows at once; no batch is a small
    remainder, on which batch norm would take its statistics from a handful of pictures.
    sizes: (count, 2) height and width of the pictures; given, those of similar aspect share a batch, which saves
    padding, and the batch with the largest canvas comes first.
    """
    rng = np.random.default_rng((seed, epoch))
    order, batches = rng.permutation(count), batches_an_epoch(count, batch, ranks)
    if sizes is None:
        return np.array_split(order, batches)
    order = order[np.argsort(aspect_bins(sizes)[order], kind="stable")]
    parts = np.array_split(order, batches)
    canvases = [len(part) * canvas(sizes[part]) for part in parts]
    first = int(np.argmax(canvases))
    return [parts[first], *(parts[k] for k in rng.permutation(batches) if k != first)]


ASPECTS = 2 ** np.linspace(-1, 1, 7)
"""Bounds of the bins of width over height, from 1:2 to 2:1, whose pictures share training batches."""


def aspect_bins(sizes: np.ndarray) -> np.ndarray:
    """The bin (n,) of each picture's aspect; sizes: (n, 2) height and width, 0 where unknown (taken for a square)."""
    heights, widths = np.maximum(sizes, 0).T.astype(np.float64)
    known = (heights > 0) & (widths > 0)
    return np.digitize(np.divide(widths, heights, out=np.ones(len(sizes)), where=known), ASPECTS)


def canvas(sizes: np.ndarray) -> float:
    """The area of the canvas that pictures (n, 2) of height and width share once their shorter sides are 1."""
    sides = np.maximum(sizes, 1)
    return float((sides / sides.min(1, keepdims=True)).max(0).prod())


def share(batch: np.ndarray, rank: int, ranks: int) -> np.ndarray:
    """The part of a batch that process `rank` of `ranks` computes."""
    return np.array_split(batch, ranks)[rank]


def default_workers(threads: int = 0) -> int:
    """Loading processes: what the cores leave, at least one where there is more than one core, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores < 2 else min(8, max(1, cores - threads))


def workers_for(asked: int | None) -> int:
    """The number of loading processes that was asked for, or the default."""
    return default_workers() if asked is None else asked


class Loader:
    """Batches in a given order, prefetched by workers that live as long as the loader.

    `batches(keys)` yields (Pictures, targets) for each list of (epoch, index) keys. What augmentation draws depends
    on (seed, epoch, index) alone: not on the workers, the processes or what was read before.
    """

    def __init__(
        self,
        view: View,
        workers: int = 0,
        pad: float | Sequence[float] = 0.0,
        divisor: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.order = _Order()
        self.loader: DataLoader[Any] = DataLoader(
            view,  # type: ignore[arg-type]
            batch_sampler=self.order,
            num_workers=workers,
            collate_fn=Collate(pad, divisor),
            worker_init_fn=start_worker,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # Its own generator: otherwise each epoch would draw a number from the global one.
            generator=torch.Generator(),
        )

    def batches(self, keys: Sequence[Sequence[Key]]) -> Iterator[tuple[Pictures, list[Target]]]:
        """The batches of these keys, in order. Raises the DataError of the first unreadable picture."""
        self.order.keys = keys
        for batch in self.loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch


class OneByOne:
    """In a `Loader`'s place: samples as their files have them, each read when its turn comes.

    They may be as large as memory allows: nothing is read ahead, and no pixel becomes a float before it is looked at.
    """

    def __init__(self, view: View) -> None:
        self.view = view

    def batches(self, keys: Sequence[Sequence[Key]]) -> Iterator[tuple[Sample, list[Target]]]:
        """The samples of these keys, one in each, in order. Raises the DataError of the first unreadable picture."""
        for (key,) in keys:
            sample = self.view[key]
            if isinstance(sample, DataError):
                raise sample
            target = {name: torch.as_tensor(value) for name, value in sample.targets.items()}
            yield sample.with_(targets={}), [target]


class _Order:
    """The batch sampler: whatever keys were set last."""

    keys: Sequence[Sequence[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter([list(keys) for keys in self.keys])

    def __len__(self) -> int:
        return len(self.keys)


def evaluation_keys(count: int, batch: int, rank: int = 0, ranks: int = 1) -> list[list[Key]]:
    """This process's share of an evaluation: whole batches, every picture exactly once over all processes.

    Batches are formed before they are shared out, so that a picture's neighbours, and with them the last bit of
    its result, do not depend on the number of processes.
    """
    whole = [[(0, i) for i in range(start, min(start + batch, count))] for start in range(0, count, batch)]
    return whole[rank::ranks]
