"""What data sets and tasks agree on: the keys and types of one sample, of a batch, and of the classes.

Frames: x to the right, y down, the origin at the top left corner of the top left pixel, so that the centre of
the first pixel is (0.5, 0.5) and a picture of width w spans [0, w]. Tasks and data sets meet here and nowhere else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

KEYS: dict[str, str] = {
    "label": "() int64, class index from 0",
    "boxes": "(n, 4) float32, x1 y1 x2 y2 in absolute pixels",
    "box_labels": "(n,) int64, class index from 0",
    "crowd": "(n,) bool, to be ignored, never a positive",
    "area": "(n,) float32, the annotation's own area in pixels",
    "masks": "(n, h, w) bool, instance masks",
    "keypoints": "(n, k, 3) float32, x, y, visibility 0/1/2",
    "semantic": "(h, w) int64, class index; 255 is ignored",
    "depth": "(h, w) float32, metres along the optical axis; 0 is unknown",
    "normals": "(3, h, w) float32, unit vectors, x right, y down, z forward, facing the camera; 0 is unknown",
    "clean": "(3, h, w) float32, the undamaged picture in [0, 1]",
    "hole": "(1, h, w) bool, what inpainting must fill",
}
"""Every target key that there is, with its shape, type and meaning."""

IGNORE = 255
"""The value of `semantic` that no loss and no metric counts."""


class DataError(ValueError):
    """Bad data or bad usage: the message names the file, the offending value and the remedy (exit status 2)."""


@dataclass(frozen=True)
class ClassMap:
    """The classes of a data set: index from 0 <-> name <-> the id in the original files.

    `names[i]` and `ids[i]` belong to index i. The map is saved inside every model, so that no one has to guess.
    Keypoint names, flip pairs and OKS sigmas travel with it in `keypoints`.
    """

    names: tuple[str, ...]
    ids: tuple[int | str, ...] = ()
    keypoints: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ids:
            object.__setattr__(self, "ids", tuple(range(len(self.names))))
        if len(self.ids) != len(self.names):
            raise DataError(f"{len(self.names)} class names but {len(self.ids)} class ids")
        for what, values in (("name", self.names), ("id", self.ids)):
            if len(set(values)) != len(values):
                twice = sorted({str(v) for v in values if list(values).count(v) > 1})
                raise DataError(f"class {what} {twice} is given twice")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, id: int | str) -> int:
        """Index of an original id; DataError if unknown."""
        try:
            return self.ids.index(id)
        except ValueError:
            raise DataError(f"unknown class id {id!r}; known are {list(self.ids)}") from None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file's header."""
        return {"names": list(self.names), "ids": list(self.ids), "keypoints": self.keypoints}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ClassMap":
        """The inverse of `to_json`."""
        return cls(tuple(value["names"]), tuple(value["ids"]), value.get("keypoints", {}))


PERSON_KEYPOINTS: dict[str, Any] = {
    "names": [
        *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
        *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
        *("left_knee", "right_knee", "left_ankle", "right_ankle"),
    ],
    "pairs": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]],
    "sigmas": [
        *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ],
    "skeleton": [
        *([15, 13], [13, 11], [16, 14], [14, 12], [11, 12], [5, 11], [6, 12], [5, 6], [5, 7], [6, 8]),
        *([7, 9], [8, 10], [1, 2], [0, 1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6]),
    ],
}
"""COCO's 17 keypoints of a person, as `ClassMap.keypoints` has them, all indices from 0. pairs: what a flip exchanges.
sigmas: how far apart people mark the same point, by object scale (cocodataset.org/#keypoints-eval)."""


@dataclass(frozen=True)
class Sample:
    """One picture with what is known of it, in numpy, as data sets give it and transforms move it.

    image: (h, w, channels) uint8 or uint16, RGB, or float32 in [0, 1]. id: unique in its data set; a file's path
    relative to the root where there is a file. targets: arrays by key of `KEYS`, in this image's pixels. inputs: what a
    task is given beside the picture at prediction time too (`hole`, `sigma`, `proposals`, `intrinsics`).
    to_file: (2, 3) float64, the affine map from this image's pixel frame to the file's; transforms compose it.
    file_size: (height, width) of the file's picture after its EXIF orientation.
    """

    id: str
    image: np.ndarray
    targets: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    to_file: np.ndarray = field(default_factory=lambda: np.eye(2, 3))
    file_size: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.file_size == (0, 0):
            object.__setattr__(self, "file_size", self.image.shape[:2])

    def with_(self, **changes: Any) -> "Sample":
        """A copy with some fields changed."""
        return replace(self, **changes)


Target = dict[str, Tensor]
"""One picture's targets as tensors, by key of `KEYS`."""


@dataclass
class Pictures:
    """A batch of pictures on one padded canvas.

    pixels: (n, channels, H, W) float32, RGB in [0, 1]; padding is at the right and at the bottom.
    sizes: n pairs (height, width), each picture's own part of the canvas.
    file_sizes: n pairs (height, width) in the file's pixels.
    to_file: (n, 2, 3) float64, affine from canvas pixels to the file's pixels.
    ids: n picture ids. inputs: by name, one entry a picture, what a task is given beside the picture.
    """

    pixels: Tensor
    sizes: list[tuple[int, int]]
    file_sizes: list[tuple[int, int]]
    to_file: Tensor
    ids: list[str]
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, memory_format: torch.memory_format | None = None) -> "Pictures":
        """The same batch on a device."""
        pixels = self.pixels.to(device, non_blocking=True)
        if memory_format is not None:
            pixels = pixels.to(memory_format=memory_format)
        inputs = {key: [v.to(device) for v in values] for key, values in self.inputs.items()}
        return replace(self, pixels=pixels, inputs=inputs)

    def __getitem__(self, part: slice) -> "Pictures":
        """Some of the pictures, on the same canvas."""
        return Pictures(
            self.pixels[part],
            self.sizes[part],
            self.file_sizes[part],
            self.to_file[part],
            self.ids[part],
            {key: values[part] for key, values in self.inputs.items()},
        )


def split_bounds(count: int, pieces: int) -> list[tuple[int, int]]:
    """(start, stop) of `count` things in at most `pieces` non-empty parts, the longer ones first."""
    pieces = min(pieces, count)
    sizes = [count // pieces + (k < count % pieces) for k in range(pieces)] if pieces else []
    stops = np.cumsum(sizes, dtype=int).tolist()
    return [(stop - size, stop) for size, stop in zip(sizes, stops)]


def to_tensor(image: np.ndarray) -> Tensor:
    """(h, w, c) uint8, uint16 or float32 in [0, 1] -> (c, h, w) float32 in [0, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if image.dtype == np.uint8:
        return tensor.float().div_(255)
    if image.dtype == np.uint16:
        return tensor.float().div_(65535)
    if image.dtype != np.float32:
        raise TypeError(f"a picture is uint8, uint16 or float32, not {image.dtype}")
    return tensor


def collate(
    samples: Sequence[Sample],
    pad: float | Sequence[float] = 0.0,
    divisor: int = 1,
    canvas: tuple[int, int] | None = None,
) -> tuple[Pictures, list[Target]]:
    """Put samples on one canvas: the largest height and width, rounded up to a multiple of `divisor`.

    `pad` is the value beside the pictures, in [0, 1], one for all channels or one each; `canvas` (height, width) asks
    for a larger one.
    Dense targets (`semantic`, `depth`, `normals`, `masks`, `clean`, `hole`) are not padded: they keep their picture's
    own size, `Pictures.sizes`.
    """
    sizes = [(s.image.shape[0], s.image.shape[1]) for s in samples]
    height, width = (max(side) for side in zip(*sizes, canvas or (1, 1)))
    height, width = (-(-side // divisor) * divisor for side in (height, width))
    if all(size == (height, width) for size in sizes):
        pixels = torch.stack([to_tensor(s.image) for s in samples])
    else:
        pixels = torch.empty(len(samples), samples[0].image.shape[2], height, width)
        pixels[:] = torch.tensor(pad, dtype=torch.float32).view(-1, 1, 1)
        for canvas_picture, sample, (h, w) in zip(pixels, samples, sizes):
            canvas_picture[:, :h, :w] = to_tensor(sample.image)
    names = samples[0].inputs.keys()
    pictures = Pictures(
        pixels=pixels,
        sizes=sizes,
        file_sizes=[s.file_size for s in samples],
        to_file=torch.from_numpy(np.stack([s.to_file for s in samples])),
        ids=[s.id for s in samples],
        inputs={name: [torch.as_tensor(s.inputs[name]) for s in samples] for name in names},
    )
    targets = [{key: torch.as_tensor(value) for key, value in s.targets.items()} for s in samples]
    return pictures, targets


Others = Callable[[int], Sample]
"""The one door to other samples of the data set, for mosaic and mixup: any index from 0, modulo their number."""

Transform = Callable[[Sample, np.random.Generator, Others | None], Sample]
"""Moves every key of a sample together; all its randomness comes from the generator."""
