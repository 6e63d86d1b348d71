"""All objects of one split in flat arrays: what every detection format is read into."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from retinue.datasets.segments import Segments, gather


@dataclass
class Annotations:
    """The objects of every picture; flat, so that loading processes share them instead of copying.

    paths: (pictures,) bytes, relative to the root, "/". offsets: (pictures + 1,) int64, picture i has the rows
    offsets[i]:offsets[i + 1] of all that is by object. boxes: (objects, 4) float64, x1 y1 x2 y2 in the file's
    pixels. labels: (objects,) int64. crowd: (objects,) bool. area: (objects,) float64. keypoints: (objects, K, 3)
    float64, x y visibility. sizes: (pictures, 2) int32, the height and width that the annotation states, 0 where
    it says nothing. image_ids: (pictures,) int64 or bytes, object_ids: (objects,) int64, both of the original file.
    extras: (objects,) each, what no task uses and a conversion should keep: VOC's `truncated` (bool), `pose` (bytes).
    """

    paths: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray | None = None
    area: np.ndarray | None = None
    segments: Segments | None = None
    keypoints: np.ndarray | None = None
    sizes: np.ndarray | None = None
    image_ids: np.ndarray | None = None
    object_ids: np.ndarray | None = None
    extras: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def pictures(self) -> np.ndarray:
        """(objects,) int64, the picture of each object."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def object_sizes(self) -> np.ndarray:
        """(objects, 2) int32, the height and width of each object's picture."""
        if self.sizes is None:
            return np.zeros((len(self.labels), 2), np.int32)
        return self.sizes[self.pictures]

    def select(self, pictures: np.ndarray) -> "Annotations":
        """Only these pictures, a mask (pictures,) bool or an array of indices, with their objects."""
        chosen = np.flatnonzero(pictures) if pictures.dtype == bool else pictures
        rows, offsets = gather(self.offsets, chosen)
        parts = {name: _part(getattr(self, name), chosen) for name in _BY_PICTURE}
        return replace(self._rows(rows), offsets=offsets, **parts)

    def keep(self, objects: np.ndarray) -> "Annotations":
        """Only these objects, a mask (objects,) bool; every picture stays."""
        ends = np.concatenate([[0], np.cumsum(objects)]).astype(np.int64)
        return replace(self._rows(np.flatnonzero(objects)), offsets=ends[self.offsets])

    def _rows(self, rows: np.ndarray) -> "Annotations":
        return replace(self, **{name: _part(getattr(self, name), rows) for name in _BY_OBJECT})

    def in_pixels(self) -> "Annotations":
        """Coordinates that are parts of the picture's width and height -> pixels of `sizes`."""
        factors = self.object_sizes()[:, ::-1].astype(np.float64)
        segments = self.segments.scaled(factors) if self.segments is not None else None
        keypoints = self.keypoints
        if keypoints is not None:
            keypoints = np.concatenate([keypoints[..., :2] * factors[:, None], keypoints[..., 2:]], -1)
        return replace(self, boxes=self.boxes * np.tile(factors, 2), segments=segments, keypoints=keypoints)

    def turned(self, orientations: np.ndarray) -> "Annotations":
        """From the stored frame to the upright one, whose size is `sizes`; segments keep the stored frame.

        orientations: (pictures,) the EXIF orientation of each stored frame, 1 for those that are upright.
        """
        orientation = orientations[self.pictures]
        size = self.object_sizes()[:, ::-1].astype(np.float64)
        corners = _upright(self.boxes.reshape(-1, 2, 2), orientation, size)
        keypoints = self.keypoints
        if keypoints is not None:
            points = _upright(keypoints[..., :2], orientation, size)
            points = np.where(
                keypoints[..., 2:] > 0, points, keypoints[..., :2]
            )  # unlabelled ones are at 0, 0
            keypoints = np.concatenate([points, keypoints[..., 2:]], -1)
        return replace(self, boxes=np.concatenate([corners.min(1), corners.max(1)], -1), keypoints=keypoints)


_BY_PICTURE = ("paths", "sizes", "image_ids")
_BY_OBJECT = tuple(f.name for f in fields(Annotations) if f.name not in (*_BY_PICTURE, "offsets"))


def _part(value: Any, rows: np.ndarray) -> Any:
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: each[rows] for name, each in value.items()}
    return value.select(rows) if isinstance(value, Segments) else value[rows]


def _upright(points: np.ndarray, orientation: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Points (n, k, 2) stored with orientations (n,) -> upright, as `pictures.orient` moves pixels.

    size: (n, 2) width and height of the upright pictures.
    """
    points = np.where(orientation[:, None, None] >= 5, points[..., ::-1], points)
    turn = (orientation - 1) % 4
    mirrored = np.stack([(turn == 1) | (turn == 2), (turn == 2) | (turn == 3)], -1)[:, None]
    return np.where(mirrored, size[:, None] - points, points)
