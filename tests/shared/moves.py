"""A camera, a generator, and random chains of moves."""

import numpy as np
from hypothesis import strategies as st

from retinue.datasets.spatial import (
    CenterCrop,
    HorizontalFlip,
    Letterbox,
    RandomAffine,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    ResizeTo,
    ScaleJitter,
    VerticalFlip,
)

H, W = 48, 64
K = np.array([[70.0, 0, 30], [0, 70, 25], [0, 0, 1]])


def generator(seed=0):
    return np.random.default_rng(seed)


def warps():
    """Random chains of transforms."""
    one = st.sampled_from(
        [
            Resize(40),
            ResizeTo(33, 71),
            Letterbox(50, divisor=8),
            Letterbox(50, centred=True),
            CenterCrop(40),
            RandomCrop(38),
            RandomResizedCrop(37),
            HorizontalFlip(p=0.7),
            VerticalFlip(p=0.7),
            RandomAffine(20, (0.1, 0.1), (0.7, 1.5), 5),
            ScaleJitter(45, (0.5, 1.5)),
        ]
    )
    return st.lists(one, min_size=1, max_size=4)
