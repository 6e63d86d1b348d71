"""What semantic segmentation says of one picture."""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from retinue.datasets.targets import IGNORE, ClassMap
from retinue.tasks.segmentation.overlay import count_labels, draw_labels, percent
from retinue.tasks.segmentation.palette import VOID, colours_of


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of every pixel of one picture.

    id: the picture's id. labels: (h, w) uint8, class indices, in the file's own pixels. Raises ValueError for labels
    that are not so.
    """

    id: str
    labels: np.ndarray
    classes: ClassMap

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.dtype != np.uint8:
            raise ValueError(f"{self.id}: labels {self.labels.shape} {self.labels.dtype}, not (h, w) uint8")
        if self.labels.size and (most := int(self.labels.max())) >= len(self.classes):
            raise ValueError(f"{self.id}: label {most} of {len(self.classes)} classes")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the file's picture."""
        height, width = self.labels.shape
        return height, width

    @cached_property
    def shares(self) -> dict[str, float]:
        """By name, the share of the picture of the classes that occur, the largest first."""
        return shares_of(self.labels, self.classes)

    def __str__(self) -> str:
        return say_shares(self.shares)

    def to_json(self) -> dict[str, Any]:
        """Plain values: `shares` of the classes that occur, by name, and their `indices`, the numbers in the mask."""
        return {
            "id": self.id,
            "size": list(self.size),
            "shares": self.shares,
            "indices": {name: self.classes.names.index(name) for name in self.shares},
        }

    def draw(self, picture: np.ndarray) -> np.ndarray:
        """The picture (h, w, 3) uint8 RGB in the classes' colours, with a legend to its right: (h, w + legend, 3)."""
        return draw_labels(picture, self.labels, self.classes)

    def files(self, picture: np.ndarray) -> dict[str, bytes]:
        """What is worth a file of its own, by the ending of its name: the labels as a palette PNG."""
        return {"-labels.png": encode_labels(self.labels, self.classes)}


def shares_of(labels: np.ndarray, classes: ClassMap) -> dict[str, float]:
    """By name, the share of labels (h, w) uint8 of the classes that occur, the largest first; 255 is nobody's."""
    counts = count_labels(labels)[: len(classes)]
    order = np.argsort(-counts, kind="stable").tolist()
    return {classes.names[i]: int(counts[i]) / labels.size for i in order if counts[i]}


def say_shares(shares: dict[str, float], shown: int = 3) -> str:
    """ "road 41 %, sky 22 %, building 20 %, 5 more" of shares, the largest first."""
    said = [f"{name} {percent(share)}" for name, share in list(shares.items())[:shown]]
    return ", ".join(said + [f"{len(shares) - shown} more"] * (len(shares) > shown)) or "no pixels"


def encode_labels(labels: np.ndarray, classes: ClassMap) -> bytes:
    """A PNG whose pixels are the labels (h, w) uint8 as they are, shown in the classes' colours; 255 is grey."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(classes)], colours[IGNORE] = colours_of(classes), VOID
    image = Image.fromarray(labels)
    image.putpalette(colours.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
