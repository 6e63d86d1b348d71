"""Several pictures in one, with all of their boxes: side by side (Mosaic), or one over the other (MixUp)."""

import cv2
import numpy as np

from retinue.datasets.geometry import ROW_KEYS, Warp
from retinue.datasets.targets import IGNORE, DataError, Others, Sample, Transform

JOINED = frozenset({*ROW_KEYS, "semantic"})


class Mosaic:
    """Four samples that meet at a random point of a canvas of `side` by `side`, with probability `p`.

    Bochkovskiy et al. 2020, arXiv 2004.10934, section 3.4.
    Each picture's longer side becomes `side` times a factor from `scale`; what passes the meeting point or
    the canvas is cut off. pad: light in [0, 1] of what stays empty, which is `IGNORE` in `semantic`. Joins
    boxes with their rows and `semantic`. The result belongs to no one file: its `to_file` is NaN, and its id
    is the first picture's.

    Raises DataError without `others`, and for keys that cannot be joined.
    """

    def __init__(
        self, side: int, scale: tuple[float, float] = (0.5, 1.0), p: float = 1.0, pad: float = 0.0
    ) -> None:
        self.side, self.scale, self.p, self.pad = side, scale, p, pad

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample with three more."""
        if rng.random() >= self.p:
            return sample
        if others is None:
            raise DataError("Mosaic needs other samples: call it as transform(sample, rng, others)")
        samples = [sample] + [others(int(i)) for i in rng.integers(2**31, size=3)]
        _check(samples)
        x, y = (int(v) for v in rng.integers(self.side // 4, self.side * 3 // 4 + 1, 2))
        channels = sample.image.shape[2]
        canvas = Warp(np.eye(2, 3), (self.side, self.side), pad=self.pad)
        tiles = []
        for i, tile in enumerate(samples):
            left, top = i % 2 == 0, i < 2
            size = (y if top else self.side - y, x if left else self.side - x)
            corner = (0 if left else x, 0 if top else y)
            tiles.append((corner, self._place(tile.image.shape[:2], size, left, top, rng)(tile)))
        return _join(sample, tiles, canvas.size, channels)

    def _place(
        self, picture: tuple[int, int], size: tuple[int, int], left: bool, top: bool, rng: np.random.Generator
    ) -> Warp:
        """The picture scaled, with its inner corner in the inner corner of a tile of `size`."""
        height, width = picture
        zoom = self.side / max(picture) * rng.uniform(*self.scale)
        x = size[1] - zoom * width if left else 0.0
        y = size[0] - zoom * height if top else 0.0
        return Warp(np.array([[zoom, 0, x], [0, zoom, y]]), size, pad=self.pad)


class MixUp:
    """Another sample half transparent over this one, with the boxes of both, with probability `p`.

    Zhang et al. 2018, arXiv 1710.09412, in the form of detectors (arXiv 1902.04103, section 3.1): the mean of the two.
    place: brings the other one to the size of this one. The result's `to_file` is NaN, and its id is this one's.

    Raises DataError without `others`, for keys that cannot be joined, and where the sizes differ.
    """

    def __init__(self, place: Transform, p: float = 1.0) -> None:
        self.place, self.p = place, p

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample with another one."""
        if rng.random() >= self.p:
            return sample
        if others is None:
            raise DataError("MixUp needs other samples: call it as transform(sample, rng, others)")
        other = self.place(others(int(rng.integers(2**31))), rng, others)
        _check([sample, other], frozenset(ROW_KEYS))
        if other.image.shape != sample.image.shape:
            raise DataError(f"MixUp: {sample.id} has {sample.image.shape}, {other.id} {other.image.shape}")
        image = cv2.addWeighted(sample.image, 0.5, other.image, 0.5, 0).reshape(sample.image.shape)
        targets = {key: np.concatenate([value, other.targets[key]]) for key, value in sample.targets.items()}
        return sample.with_(image=image, targets=targets, to_file=np.full((2, 3), np.nan))


def _check(samples: list[Sample], joined: frozenset[str] = JOINED) -> None:
    """DataError unless the samples can be joined."""
    first = samples[0]
    for s in samples:
        if stray := sorted((s.targets.keys() - joined) | s.inputs.keys()):
            raise DataError(f"{s.id}: Mosaic and MixUp cannot join {stray}; this one joins {sorted(joined)}")
        if s.targets.keys() != first.targets.keys():
            raise DataError(f"{s.id} has {sorted(s.targets)}, but {first.id} has {sorted(first.targets)}")
        if s.image.shape[2] != first.image.shape[2] or s.image.dtype != first.image.dtype:
            raise DataError(f"{s.id} and {first.id} differ in channels or type: these must be alike")


def _join(
    sample: Sample, tiles: list[tuple[tuple[int, int], Sample]], size: tuple[int, int], channels: int
) -> Sample:
    """The tiles on one canvas, each with its top left corner (x, y) given; together they cover it."""
    image = np.empty((*size, channels), sample.image.dtype)
    targets: dict[str, np.ndarray] = {}
    if "semantic" in sample.targets:
        targets["semantic"] = np.full(size, IGNORE, sample.targets["semantic"].dtype)
    for (x, y), tile in tiles:
        window = (slice(y, y + tile.image.shape[0]), slice(x, x + tile.image.shape[1]))
        image[window] = tile.image
        if "semantic" in targets:
            targets["semantic"][window] = tile.targets["semantic"]
    for key in (key for key in ROW_KEYS if key in sample.targets):
        targets[key] = np.concatenate([_on_canvas(key, tile, corner, size) for corner, tile in tiles])
    return sample.with_(image=image, targets=targets, to_file=np.full((2, 3), np.nan))


def _on_canvas(key: str, tile: Sample, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A tile's rows in the canvas's frame."""
    value = tile.targets[key]
    if key == "boxes":
        return value + np.array([*corner, *corner], np.float32)
    if key == "keypoints":
        return value + np.where(value[..., 2:] > 0, np.array([*corner, 0], np.float32), np.float32(0))
    if key != "masks":
        return value
    x, y = corner
    masks = np.zeros((len(value), *size), bool)
    masks[:, y : y + value.shape[1], x : x + value.shape[2]] = value
    return masks
