"""Zooming out and in as detectors are trained with: Liu et al. 2016, arXiv:1512.02325, section 2.2 and 3.6."""

from collections.abc import Sequence

import numpy as np

from retinue.datasets.geometry import ROW_KEYS, Warp
from retinue.datasets.spatial import Geometric, Range, Size
from retinue.datasets.targets import Others, Sample

TRIES = 40
"""Windows that are drawn for one bound."""


def _window(top: int, left: int, size: Size, pad: float = 0.0) -> Warp:
    """The part of a picture that begins there, or the picture on a larger canvas where the corner is negative."""
    return Warp(np.array([[1.0, 0, -left], [0, 1.0, -top]]), size, pad=pad)


class RandomZoomOut(Geometric):
    """The picture anywhere on a canvas up to `most` times its height and width, with probability `p`.

    pad: light in [0, 1] of the canvas.
    """

    def __init__(self, most: float = 4.0, p: float = 0.5, pad: float = 0.0) -> None:
        self.most, self.p, self.pad = most, p, pad

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """A size of the canvas and a place on it."""
        if rng.random() >= self.p:
            return Warp.identity(size)
        ratio = rng.uniform(1, self.most)
        height, width = (int(side * ratio) for side in size)
        top, left = (int(rng.integers(new - old + 1)) for new, old in zip((height, width), size))
        return _window(-top, -left, (height, width), self.pad)


class RandomIoUCrop:
    """A part of the picture that overlaps some box by at least a bound drawn from `overlaps`; None takes it whole.

    side: range of the part's height and width as shares of the picture's. ratio: range of its width over its height.
    Objects whose centre lies outside leave with their rows, crowds do not. Of a picture without boxes it is any part.
    """

    def __init__(
        self,
        overlaps: Sequence[float | None] = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        side: Range = (0.3, 1.0),
        ratio: Range = (0.5, 2.0),
    ) -> None:
        self.overlaps, self.side, self.ratio = tuple(overlaps), side, ratio

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample's part."""
        boxes = np.asarray(sample.targets.get("boxes", np.zeros((0, 4))), np.float64)
        left, top, right, bottom = self.window(boxes, sample.image.shape[:2], rng)
        kept = _has_centre(np.array([[left, top, right, bottom]]), boxes)[0]
        kept |= sample.targets.get("crowd", np.zeros(len(boxes), bool))
        targets = {k: v[kept] if k in ROW_KEYS else v for k, v in sample.targets.items()}
        return _window(top, left, (bottom - top, right - left))(sample.with_(targets=targets))

    def window(self, boxes: np.ndarray, size: Size, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2 of a part of a picture of (height, width) with boxes (n, 4)."""
        while True:
            bound = self.overlaps[int(rng.integers(len(self.overlaps)))]
            if bound is None:
                return 0, 0, size[1], size[0]
            windows = self._draw(size, rng)
            fits = np.ones(len(windows), bool)
            if len(boxes):
                inside = _has_centre(windows, boxes)
                fits = inside.any(1) & (np.where(inside, _iou(windows, boxes), 0).max(1) >= bound)
            if fits.any():
                left, top, right, bottom = (int(v) for v in windows[fits.argmax()])
                return left, top, right, bottom

    def _draw(self, size: Size, rng: np.random.Generator) -> np.ndarray:
        """Windows (TRIES or fewer, 4) in whole pixels, of an allowed ratio."""
        whole = np.array(size[::-1])
        sides = np.maximum(1, whole * rng.uniform(*self.side, (TRIES, 2))).astype(int)
        corners = rng.integers(whole - sides + 1)
        ratios = sides[:, 0] / sides[:, 1]
        allowed = (ratios >= self.ratio[0]) & (ratios <= self.ratio[1])
        return np.concatenate([corners, corners + sides], 1)[allowed]


def _has_centre(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(w, n) bool: whether the centre of each box (n, 4) lies in each window (w, 4)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(2)


def _iou(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(w, n): the overlap of each window with each box."""
    low = np.maximum(windows[:, None, :2], boxes[:, :2])
    high = np.minimum(windows[:, None, 2:], boxes[:, 2:])
    common = (high - low).clip(0).prod(2)
    areas = [(part[:, 2:] - part[:, :2]).prod(1) for part in (windows, boxes)]
    return common / np.maximum(areas[0][:, None] + areas[1] - common, 1e-9)
