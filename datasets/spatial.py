"""Geometric transforms: each describes a `Warp` for a picture's size, drawn from the generator."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from retinue.datasets.geometry import Warp
from retinue.datasets.targets import Others, Sample

Size = tuple[int, int]
"""(height, width)."""
Range = tuple[float, float]
Pairs = Sequence[tuple[int, int]]


def _size(side: int | Size) -> Size:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


def _scaling(old: Size, new: Size, **options: Any) -> Warp:
    """The map that resizes the whole of a picture to `new`."""
    matrix = np.array([[new[1] / old[1], 0, 0], [0, new[0] / old[0], 0]])
    return Warp(matrix, new, **options)


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0, x], [0, 1.0, y]])


class Geometric:
    """A transform that is a `Warp`; `Compose` multiplies those in a row into one."""

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """The map for a picture of this (height, width), drawn from the generator."""
        raise NotImplementedError

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample so moved."""
        size = sample.image.shape[:2]
        return self.warp(size, rng).snap(size)(sample)


# Resizing the whole picture


class Resize(Geometric):
    """The shorter side becomes `side`; less where the longer one would pass `longest`.

    The other side is rounded down. `antialias` averages where the picture shrinks.
    """

    def __init__(self, side: int, longest: int | None = None, antialias: bool = True) -> None:
        self.side, self.longest, self.antialias = side, longest, antialias

    def size(self, size: Size) -> Size:
        """What a picture of (height, width) becomes."""
        short, long = min(size), max(size)
        new_short, new_long = self.side, self.side * long // short
        if self.longest is not None and new_long > self.longest:
            new_short, new_long = max(1, self.longest * short // long), self.longest
        return (new_short, new_long) if size[0] <= size[1] else (new_long, new_short)

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """Nothing is drawn."""
        return _scaling(size, self.size(size), antialias=self.antialias)


class RandomResize(Geometric):
    """The shorter side becomes a length from `low` to `high`, both included; as `Resize` otherwise."""

    def __init__(self, low: int, high: int, longest: int | None = None, antialias: bool = True) -> None:
        self.low, self.high, self.longest, self.antialias = low, high, longest, antialias

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """A length of the shorter side."""
        side = int(rng.integers(self.low, self.high + 1))
        return Resize(side, self.longest, self.antialias).warp(size, rng)


class ResizeTo(Geometric):
    """The picture becomes `height` by `width`, whatever its aspect."""

    def __init__(self, height: int, width: int, antialias: bool = True) -> None:
        self.new, self.antialias = (height, width), antialias

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """Nothing is drawn."""
        return _scaling(size, self.new, antialias=self.antialias)


class Letterbox(Geometric):
    """The longer side becomes `side`, the aspect is kept and the rest is filled with `pad`, in [0, 1].

    The frame is square; with a `divisor` it is no larger than the next multiple of it. Padding is at the
    right and at the bottom, or all around if `centred`. The shorter side is rounded, or rounded down if `down`.
    """

    def __init__(
        self,
        side: int,
        pad: float = 0.0,
        divisor: int | None = None,
        centred: bool = False,
        antialias: bool = True,
        down: bool = False,
    ) -> None:
        self.side, self.pad, self.divisor, self.centred = side, pad, divisor, centred
        self.antialias, self.down = antialias, down

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """Nothing is drawn."""
        whole = math.floor if self.down else round
        h, w = (max(1, whole(n * self.side / max(size))) for n in size)
        d = self.divisor
        frame = (self.side, self.side) if d is None else (-(-h // d) * d, -(-w // d) * d)
        warp = _scaling(size, (h, w), pad=self.pad, antialias=self.antialias)
        corner = ((frame[1] - w) // 2, (frame[0] - h) // 2) if self.centred else (0, 0)
        return warp.then(Warp(_shift(*corner), frame))


# Crops


class CenterCrop(Geometric):
    """The middle `side` by `side` (or height, width) pixels, padded where the picture is smaller."""

    def __init__(self, side: int | Size, pad: float = 0.0) -> None:
        self.new, self.pad = _size(side), pad

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """Nothing is drawn. Odd rests are shared as torchvision does."""
        top, left = (
            round((old - new) / 2) if old >= new else -((new - old) // 2) for old, new in zip(size, self.new)
        )
        return Warp(_shift(-left, -top), self.new, pad=self.pad)


class RandomCrop(Geometric):
    """A window of `side` by `side` (or height, width) pixels anywhere in the picture.

    `padding` pixels of `pad` are put around the picture before; a picture smaller than the window lies
    anywhere in it.
    """

    def __init__(self, side: int | Size, padding: int = 0, pad: float = 0.0) -> None:
        self.new, self.padding, self.pad = _size(side), padding, pad

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """A place of the window."""
        top, left = (
            int(rng.integers(min(0, rest), max(0, rest) + 1)) - self.padding
            for rest in (old + 2 * self.padding - new for old, new in zip(size, self.new))
        )
        return Warp(_shift(-left, -top), self.new, pad=self.pad)


class RandomResizedCrop(Geometric):
    """A random part of the picture, resized to `side` by `side` (Szegedy et al. 2015, arXiv 1409.4842, section 6).

    scale: the part's share of the area. ratio: its width over its height, log-uniform. Ten draws are tried,
    then the largest central part of an allowed ratio is taken. A zoom, for depth and normals, as compared
    with the whole picture resized to a shorter side of `side`.
    """

    def __init__(
        self,
        side: int | Size,
        scale: Range = (0.08, 1.0),
        ratio: Range = (3 / 4, 4 / 3),
        antialias: bool = True,
    ) -> None:
        self.new, self.scale, self.ratio, self.antialias = _size(side), scale, ratio, antialias

    def window(self, size: Size, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of the part."""
        height, width = size
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = np.exp(rng.uniform(*np.log(self.ratio)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        h, w = min(height, round(width / ratio)), min(width, round(height * ratio))
        return (height - h) // 2, (width - w) // 2, h, w

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """A part of the picture."""
        top, left, h, w = self.window(size, rng)
        crop = Warp(_shift(-left, -top), (h, w))
        whole = max(self.new[0] / size[0], self.new[1] / size[1])
        view = np.diag([self.new[1] / w, self.new[0] / h]) / whole
        return crop.then(_scaling((h, w), self.new, view=view, antialias=self.antialias))


class ScaleJitter(Geometric):
    """Large-scale jitter (Ghiasi et al. 2021, arXiv 2012.07177): a random zoom in a fixed square.

    The longer side becomes `side` times a factor from `scale`; a random window of `side` by `side` is taken,
    or the rest at the right and at the bottom filled with `pad`.
    """

    def __init__(self, side: int, scale: Range = (0.1, 2.0), pad: float = 0.0) -> None:
        self.side, self.scale, self.pad = side, scale, pad

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """A scale and a place."""
        zoom = rng.uniform(*self.scale)
        new = tuple(max(1, round(n * zoom * self.side / max(size))) for n in size)
        top, left = (int(rng.integers(max(0, n - self.side) + 1)) for n in new)
        resize = _scaling(size, (new[0], new[1]), view=np.eye(2) * zoom, pad=self.pad)
        return resize.then(Warp(_shift(-left, -top), (self.side, self.side)))


# Flips and affine maps


class HorizontalFlip(Geometric):
    """Mirrors left and right with probability `p`. pairs: keypoints that then change places."""

    def __init__(self, p: float = 0.5, pairs: Pairs = ()) -> None:
        self.p, self.pairs = p, tuple((a, b) for a, b in pairs)

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """Mirrored or not."""
        if rng.random() >= self.p:
            return Warp.identity(size)
        return Warp(np.array([[-1.0, 0, size[1]], [0, 1, 0]]), size, np.diag([-1.0, 1.0]), pairs=self.pairs)


class VerticalFlip(HorizontalFlip):
    """Mirrors top and bottom with probability `p`. pairs: keypoints that then change places."""

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """Mirrored or not."""
        if rng.random() >= self.p:
            return Warp.identity(size)
        return Warp(np.array([[1.0, 0, 0], [0, -1, size[0]]]), size, np.diag([1.0, -1.0]), pairs=self.pairs)


class RandomAffine(Geometric):
    """A random turn, zoom, shear and shift about the picture's middle, in its own frame.

    degrees, shear: from [-v, v], or from the pair given; shear slants the columns. translate: largest shift
    in x and in y, as a part of width and height. scale: the zoom, log-uniform. pad: light in [0, 1] beyond
    the picture.
    """

    def __init__(
        self,
        degrees: float | Range = 0.0,
        translate: Range = (0.0, 0.0),
        scale: Range = (1.0, 1.0),
        shear: float | Range = 0.0,
        p: float = 1.0,
        pad: float = 0.0,
    ) -> None:
        self.degrees = degrees if isinstance(degrees, tuple) else (-degrees, degrees)
        self.shear = shear if isinstance(shear, tuple) else (-shear, shear)
        self.translate, self.scale, self.p, self.pad = translate, scale, p, pad

    def warp(self, size: Size, rng: np.random.Generator) -> Warp:
        """One turn, shear, zoom and shift."""
        if rng.random() >= self.p:
            return Warp.identity(size)
        angle, shear = np.radians(rng.uniform(*self.degrees)), np.radians(rng.uniform(*self.shear))
        zoom = np.exp(rng.uniform(*np.log(self.scale)))
        extent = np.array(size[::-1])
        shift = rng.uniform(-1, 1, 2) * self.translate * extent
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = zoom * turn @ np.array([[1, np.tan(shear)], [0, 1]])
        offset = extent / 2 + shift - linear @ (extent / 2)
        return Warp(np.column_stack([linear, offset]), size, linear, self.pad)
