"""Instance masks of one picture, small until somebody draws or encodes them.

Two forms with one door: `Masks` holds what a network says, a grid of probabilities inside each box; `EncodedMasks`
holds run-length codes, as they come from files. Both give the crop of one mask and the codes of all; no more than
one mask is ever painted at a time.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pycocotools import mask as coco_mask

from retinue.datasets.rle import Rle, is_rle

THRESHOLD = 0.5
"""A pixel belongs to an object where its probability is above this."""


class InstanceMasks(Protocol):
    """The masks of a picture's objects, in either form."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, which: np.ndarray) -> "InstanceMasks":
        """Those of some objects, by indices or by a bool array."""
        ...

    def one(self, i: int, threshold: float = THRESHOLD) -> tuple[int, int, np.ndarray]:
        """(y, x, mask (h', w') bool): the part of the picture that holds mask i, painted, and where it begins."""
        ...

    def probabilities_of(self, i: int) -> tuple[int, int, np.ndarray]:
        """(y, x, (h', w') float32): the same part of the picture, with the probability of each pixel."""
        ...

    def rles(self, threshold: float = THRESHOLD) -> list[Rle]:
        """The run-length codes of all masks."""
        ...


@dataclass(frozen=True, eq=False)
class Masks:
    """Probabilities (n, M, M) float32 in [0, 1], or uint8 in 0..255, of a grid of M x M cells over each box.

    boxes: (n, 4) float32, x1 y1 x2 y2 in the pixels of the picture of `size` (height, width). Raises ValueError
    for shapes that do not fit.
    """

    probabilities: np.ndarray
    boxes: np.ndarray
    size: tuple[int, int]

    def __post_init__(self) -> None:
        n, shape = len(self.boxes), self.probabilities.shape
        if self.boxes.shape != (n, 4) or len(shape) != 3 or len(self.probabilities) != n:
            raise ValueError(f"masks: probabilities {shape} for boxes {self.boxes.shape}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, which: np.ndarray) -> "Masks":
        return Masks(self.probabilities[which], self.boxes[which], self.size)

    def one(self, i: int, threshold: float = THRESHOLD) -> tuple[int, int, np.ndarray]:
        """(y, x, mask (h', w') bool): mask i where it lies in the picture; empty where it lies outside."""
        y, x, probabilities = self.probabilities_of(i)
        return y, x, probabilities > threshold

    def probabilities_of(self, i: int) -> tuple[int, int, np.ndarray]:
        """(y, x, (h', w') float32): the probability of each pixel of mask i.

        The mask of Detectron and torchvision (`paste_masks_in_image`), but for a pixel in 30 million that rounding
        decides: the grid is padded by one cell of zeros, its box grows with it and is cut to whole pixels, and the grid
        is resized to that box by bilinear interpolation. Only what the picture shows of it is computed.
        """
        grid = self.probabilities[i].astype(np.float32) / (255 if self.probabilities.dtype == np.uint8 else 1)
        box = _grown(self.boxes[i].astype(np.float32), len(grid))
        grid = np.pad(grid, 1)
        y, rows = _interpolation(len(grid), box[1], box[3], self.size[0])
        x, columns = _interpolation(len(grid), box[0], box[2], self.size[1])
        return y, x, rows @ (grid @ columns.T)

    def rles(self, threshold: float = THRESHOLD) -> list[Rle]:
        """The run-length codes of all masks."""
        return [encode_crop(*self.one(i, threshold), self.size) for i in range(len(self))]


@dataclass(frozen=True, eq=False)
class EncodedMasks:
    """Masks as COCO's compressed run-length codes, each of the picture's `size` (height, width).

    Raises ValueError for what is no such code.
    """

    codes: tuple[Rle, ...]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        for code in self.codes:
            if not is_rle(code, self.size):
                raise ValueError(f"masks: {str(code)[:60]} is no run-length code of {self.size} pixels")

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, which: np.ndarray) -> "EncodedMasks":
        return EncodedMasks(tuple(self.codes[i] for i in np.arange(len(self))[which]), self.size)

    def one(self, i: int, threshold: float = THRESHOLD) -> tuple[int, int, np.ndarray]:
        """(y, x, mask (h', w') bool): the tight crop of mask i; a code has no probabilities to threshold."""
        x1, y1, x2, y2 = box_of(self.codes[i]).astype(int)
        return int(y1), int(x1), coco_mask.decode(self.codes[i])[y1:y2, x1:x2].astype(bool)

    def probabilities_of(self, i: int) -> tuple[int, int, np.ndarray]:
        """The same as float32, 0 or 1."""
        y, x, mask = self.one(i)
        return y, x, mask.astype(np.float32)

    def rles(self, threshold: float = THRESHOLD) -> list[Rle]:
        """The codes themselves."""
        return [dict(code) for code in self.codes]


def union(masks: InstanceMasks, threshold: float = THRESHOLD) -> np.ndarray:
    """(h, w) bool: every pixel of the picture that belongs to any of the objects."""
    canvas = np.zeros(masks.size, bool)
    for i in range(len(masks)):
        y, x, crop = masks.one(i, threshold)
        canvas[y : y + crop.shape[0], x : x + crop.shape[1]] |= crop
    return canvas


def encode_crop(y: int, x: int, crop: np.ndarray, size: tuple[int, int]) -> Rle:
    """COCO's code of a picture of `size` that is empty but for `crop` (h', w') bool at row y, column x.

    The picture is never painted: the runs of the crop's columns are moved to where they lie in the whole.
    """
    height, width = size
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), bool)
    columns[:, 1:-1] = crop.T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    edges = (x + column.astype(np.int64)) * height + y + row
    begins, ends = edges[::2], edges[1::2]
    apart = (
        begins[1:] != ends[:-1]
    )  # a run that ends at the foot of a column may go on at the next one's head
    begins, ends = begins[np.r_[True, apart][: len(begins)]], ends[np.r_[apart, True][: len(ends)]]
    borders = np.concatenate([[0], np.stack([begins, ends], 1).ravel(), [height * width]])
    counts = np.diff(borders)
    if counts[-1] == 0:
        counts = counts[:-1]
    code = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode()}


def encode(mask: np.ndarray) -> Rle:
    """COCO's code of a mask (h, w) bool of a whole picture."""
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def box_of(code: Rle) -> np.ndarray:
    """(4,) float64: the tight box x1 y1 x2 y2 of a code that `is_rle`; zeros for an empty mask."""
    x, y, width, height = coco_mask.toBbox(code)
    return np.array([x, y, x + width, y + height])


def _grown(box: np.ndarray, cells: int) -> list[int]:
    """The box of a grid that is padded by one cell on every side, cut to whole pixels, in float32 as torchvision."""
    scale, half = np.float32((cells + 2) / cells), np.float32(0.5)
    centre = (box[2:] + box[:2]) * half
    reach = (box[2:] - box[:2]) * half * scale
    return [int(side) for side in (*(centre - reach), *(centre + reach))]


def _interpolation(cells: int, first: int, last: int, side: int) -> tuple[int, np.ndarray]:
    """Bilinear interpolation of `cells` values to the pixels first..last, where they lie within [0, side).

    Gives the first such pixel and the weights (pixels, cells) float32; pixel centres are aligned at half cells.
    """
    start, length = max(first, 0), max(last - first + 1, 1)
    pixels = np.arange(start - first, max(min(last + 1, side), start) - first, dtype=np.float32)
    position = np.maximum((pixels + np.float32(0.5)) * np.float32(cells / length) - np.float32(0.5), 0)
    below = np.minimum(position.astype(np.int64), cells - 1)
    share = position - below.astype(np.float32)
    weights = np.zeros((len(pixels), cells), np.float32)
    rows = np.arange(len(pixels))
    weights[rows, below] = 1 - share
    weights[rows, np.minimum(below + 1, cells - 1)] += share
    return min(start, side), weights
