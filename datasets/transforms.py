"""Transforms: what brings a sample to the network, every key together, all randomness from the generator given.

    recipe = Compose([HorizontalFlip(), RandomAffine(scale=(0.5, 1.5)), ColorJitter(0.4, 0.4), RandomCrop(512)])
    sample = recipe(sample, np.random.default_rng((seed, epoch, index)), others)

A transform is any callable of `(sample, rng, others)`. Geometric ones describe a `Warp`
(datasets/geometry.py, which says how each key moves, depth and normals among them), colour ones a `Look`
(datasets/colour.py); `Compose` fuses those in a row, so that the picture is resampled once.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np

from retinue.datasets.albumentations_adapter import Albumentations, load_albumentations
from retinue.datasets.colour import (
    ColorJitter,
    Colour,
    Cutout,
    GaussianBlur,
    GaussianNoise,
    HSVJitter,
    Look,
    RandomErasing,
    RandomGamma,
    RandomGrayscale,
    mean_colour,
)
from retinue.datasets.geometry import Warp
from retinue.datasets.mosaic import MixUp, Mosaic
from retinue.datasets.resample import crop_image, resize_like_pil
from retinue.datasets.spatial import (
    CenterCrop,
    Geometric,
    HorizontalFlip,
    Letterbox,
    Pairs,
    RandomAffine,
    RandomCrop,
    RandomResize,
    RandomResizedCrop,
    Resize,
    ResizeTo,
    ScaleJitter,
    VerticalFlip,
)
from retinue.datasets.targets import Others, Sample, Transform
from retinue.datasets.zoom import RandomIoUCrop, RandomZoomOut

__all__ = [
    "Albumentations",
    "CenterCrop",
    "ColorJitter",
    "Colour",
    "Compose",
    "Cutout",
    "Either",
    "EvalTransform",
    "GaussianBlur",
    "GaussianNoise",
    "Geometric",
    "HSVJitter",
    "HorizontalFlip",
    "Letterbox",
    "Look",
    "MixUp",
    "Mosaic",
    "RandomAffine",
    "RandomCrop",
    "RandomErasing",
    "RandomGamma",
    "RandomGrayscale",
    "RandomIoUCrop",
    "RandomResize",
    "RandomResizedCrop",
    "RandomZoomOut",
    "Resize",
    "ResizeTo",
    "ScaleJitter",
    "VerticalFlip",
    "Warp",
    "detection_style",
    "load_albumentations",
    "photometric_distortion",
]


class Compose:
    """Transforms one after the other, geometric ones in a row as one warp and colour ones as one look.

    A fused warp is drawn exactly as its steps would be, but no frame in between cuts anything off: a crop
    that is then turned shows the picture in its corners, not padding.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms: list[Transform] = []
        for transform in transforms:
            self.transforms += transform.transforms if isinstance(transform, Compose) else [transform]
        self.runs = [(kind, list(run)) for kind, run in groupby(self.transforms, _kind)]

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample after all of them."""
        for kind, run in self.runs:
            if kind is Geometric:
                warp = Warp.identity(sample.image.shape[:2])
                for step in run:
                    warp = warp.then(step.warp(warp.size, rng))  # type: ignore[attr-defined]
                sample = warp.snap(sample.image.shape[:2])(sample)
            elif kind is Colour:
                sample = _look_all(run, sample, rng)
            else:
                for step in run:
                    sample = step(sample, rng, others)
        return sample


def _kind(transform: Transform) -> type | None:
    return next((kind for kind in (Geometric, Colour) if isinstance(transform, kind)), None)


def _look_all(steps: Sequence[Any], sample: Sample, rng: np.random.Generator) -> Sample:
    mean, look = mean_colour(sample.image), Look(np.eye(3, 4))
    for step in steps:
        if look.gamma != 1:  # a power ends a run: what follows needs the mean after it
            sample = look(sample)
            mean, look = mean_colour(sample.image), Look(np.eye(3, 4))
        look = look.then(step.look(look.matrix[:, :3] @ mean + look.matrix[:, 3], rng))
    return look(sample)


class Either:
    """One transform with probability `p`, another one else."""

    def __init__(self, p: float, one: Transform, other: Transform) -> None:
        self.p, self.one, self.other = p, one, other

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample after one of the two."""
        return (self.one if rng.random() < self.p else self.other)(sample, rng, others)


class EvalTransform:
    """As a classifier's published score was measured: shorter side to `resize`, then the middle `crop` square.

    The pixels are those of PIL's own resizing, and so of torchvision's evaluation of PIL pictures, bit for
    bit (uint8); with `antialias` off, those of plain sampling. Every other key moves along.
    """

    def __init__(
        self,
        resize: int = 256,
        crop: int = 224,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        antialias: bool = True,
    ) -> None:
        self.resize, self.crop = Resize(resize, antialias=antialias), CenterCrop(crop)
        self.interpolation, self.antialias = interpolation, antialias

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample as it is judged; nothing is drawn."""
        resize = self.resize.warp(sample.image.shape[:2], rng)
        crop = self.crop.warp(resize.size, rng)
        image = resize_like_pil(sample.image, resize.size, self.interpolation, self.antialias)
        return resize.then(crop)(sample, crop_image(image, crop.matrix, crop.size))


def detection_style(side: int, pad: float = 0.0, pairs: Pairs = ()) -> Compose:
    """The usual augmentation of detectors: a fitted square, mirrored, shifted, zoomed by 0.5 to 1.5, other colours."""
    return Compose(
        [
            Letterbox(side, pad=pad, centred=True),
            HorizontalFlip(pairs=pairs),
            RandomAffine(translate=(0.1, 0.1), scale=(0.5, 1.5), pad=pad),
            ColorJitter(brightness=0.4, contrast=0.4, saturation=0.6, hue=0.015),
        ]
    )


def photometric_distortion(strength: float = 0.5) -> Compose:
    """SSD's other colours, each with a probability of a half: contrast and saturation by a factor from 1 - strength to
    1 + strength, brightness by a quarter of that, hue turned by up to a tenth of it (Howard 2013, arXiv:1312.5402)."""
    steps = ({"contrast": 1}, {"saturation": 1}, {"brightness": 1 / 4}, {"hue": 1 / 10})
    return Compose([ColorJitter(**{k: v * strength for k, v in s.items()}, p=0.5) for s in steps])
