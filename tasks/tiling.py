"""Pictures larger than memory, for tasks that answer at every pixel: the picture in tiles, at its own resolution.

Neighbouring tiles overlap, and each one's answer is kept in its core alone: half of the overlap is cut off where a tile
ends within the picture. Tiles begin at multiples of the network's coarsest stride, so that a cell of a feature map sees
the pixels that it would see in the whole picture: away from the tiles' inner borders the answer is that of one pass,
unless the network pools over all that it is given.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from retinue.datasets.targets import DataError, Sample, collate
from retinue.datasets.transforms import Warp
from retinue.tasks.augmented import averaged_maps, dense_tasks
from retinue.tasks.dense_task import numbers_in_file
from retinue.tasks.task import Model


@dataclass(frozen=True)
class Span:
    """A stretch of a line of pixels: the network sees [start, stop), its answer is kept in [first, last)."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def seen(self) -> slice:
        """What of the line the network sees."""
        return slice(self.start, self.stop)

    @property
    def kept(self) -> slice:
        """What of the line is answered."""
        return slice(self.first, self.last)

    @property
    def core(self) -> slice:
        """What is answered, within what is seen."""
        return slice(self.first - self.start, self.last - self.start)


def spans(length: int, tile: int, overlap: int, stride: int) -> list[Span]:
    """Stretches of a line of `length` pixels whose cores follow each other without gap and make up the whole.

    Each begins at a multiple of `stride`, ends within the line, and is no longer than `tile`, rounded up to such a
    multiple. Neighbours share at least `overlap` pixels, half of which lie between a core and the end of what is seen.
    Raises DataError where the overlap leaves no room to go on.
    """
    tile = _up(tile, stride)
    if length <= tile:
        return [Span(0, length, 0, length)]
    step = (tile - overlap) // stride * stride
    if step < 1:
        raise DataError(
            f"overlap={overlap}: too much for tile={tile} of a network with stride {stride}; it is at most "
            f"{tile - stride}, or take a larger tile"
        )
    last = _up(length - tile, stride)
    starts = [*range(0, last, step), last]
    stops = [min(start + tile, length) for start in starts]
    cuts = [0, *((start + stop) // 2 for start, stop in zip(starts[1:], stops)), length]
    return [Span(*ends) for ends in zip(starts, stops, cuts, cuts[1:])]


def tiles(size: tuple[int, int], tile: int, overlap: int, stride: int) -> Iterator[tuple[Span, Span]]:
    """Rows and columns of the tiles of a picture of (height, width); their cores partition it."""
    columns = spans(size[1], tile, overlap, stride)
    for row in spans(size[0], tile, overlap, stride):
        for column in columns:
            yield row, column


def coarsest_stride(model: Model) -> int:
    """The stride at which the tiles of a picture may begin: a multiple of every map's that the tasks read or make.

    Raises DataError for a task that is not dense, or that reads canvases of one size alone.
    """
    tasks = dense_tasks(model, "tile", resized=True)
    read = (model.backbone.levels[level].stride for task in tasks.values() for level in task.levels)
    made = (task.inner_stride for task in tasks.values())
    return math.lcm(model.backbone.preprocessing.divisor, *read, *made)


def predict_tiled(
    model: Model,
    sample: Sample,
    tile: int,
    overlap: int,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
) -> dict[str, Any]:
    """The result of each task for a picture as its file has it, with what is given beside it.

    What is needed beside the picture and its result does not depend on the picture's size. flip, scales: as in
    `retinue.tasks.augmented`, of each tile. The caller switches gradients off. Raises DataError as `coarsest_stride`
    does, and for an overlap that is too large for the tile.
    """
    stride, preparation = coarsest_stride(model), model.backbone.preprocessing
    tasks, size = dense_tasks(model, "tile"), (sample.image.shape[0], sample.image.shape[1])
    values: dict[str, dict[str, np.ndarray]] = {name: {} for name in tasks}
    for row, column in tiles(size, tile, overlap, stride):
        pictures, _ = collate([seen(sample, row, column)], preparation.pad, preparation.divisor)
        pictures = pictures.to(model.backbone.mean.device, torch.channels_last)
        maps = averaged_maps(model.backbone, tasks, pictures, flip, scales)
        for name, task in tasks.items():
            answer = task.answer_at(maps[name][..., row.core, column.core])
            for key, value in answer.items():
                part = value[0].cpu().numpy()
                if key not in values[name]:
                    values[name][key] = np.empty((*part.shape[:-2], *size), part.dtype)
                values[name][key][..., row.kept, column.kept] = part
    inputs = {name: torch.as_tensor(value) for name, value in sample.inputs.items()}
    numbers = numbers_in_file(inputs, torch.from_numpy(sample.to_file))
    return {name: task.result(sample.id, values[name], numbers) for name, task in tasks.items()}


def seen(sample: Sample, row: Span, column: Span) -> Sample:
    """What the network sees of a sample in a tile, with what is given beside it moved along. No pixel is copied."""
    matrix = np.array([[1.0, 0, -column.start], [0, 1, -row.start]])
    cut = Warp(matrix, (row.stop - row.start, column.stop - column.start))
    return cut(sample.with_(targets={}), sample.image[row.seen, column.seen])


def _up(length: int, stride: int) -> int:
    """The next multiple of `stride`."""
    return -(-length // stride) * stride
