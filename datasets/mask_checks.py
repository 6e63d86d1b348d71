"""What looks doubtful in masks that can be read: much that is ignored, classes that may be one."""

from collections.abc import Iterator

import numpy as np

from retinue.datasets.mask_classes import MaskClasses, shown
from retinue.datasets.problem import Problem
from retinue.datasets.targets import IGNORE

MUCH = 0.5
"""A larger share of ignored pixels is named."""

NEAR = 2
"""Values, or channels of colours, that differ by no more are near."""

RARER = 100
"""A class that is so many times rarer than one with a near value may be an error of it."""


def doubts(
    split: str, coding: MaskClasses, codes: np.ndarray, counts: np.ndarray, blank: list[str]
) -> Iterator[Problem]:
    """Warnings of one split. codes, counts: (k,) int64, the values that occur and their pixels; blank: the masks in
    which every pixel is ignored."""
    labels = coding.index(codes)
    share = counts[labels == IGNORE].sum() / counts.sum()
    if share > MUCH:
        value = f"{share:.0%} of the pixels are ignored"
        yield Problem("warning", "much ignored", split, value, "see whether the masks' values are understood")
    for path in blank:
        yield Problem(
            "warning", "nothing labelled", path, "every pixel is ignored", "label it, or leave it out"
        )
    for rare, near in _near(coding, codes, counts):
        value = (
            f"{shown(int(codes[rare]), coding.by_colour)} ({counts[rare]:,} pixels) beside "
            f"{shown(int(codes[near]), coding.by_colour)} ({counts[near]:,} pixels)"
        )
        yield Problem(
            "warning", "near values", split, value, "see whether both are meant, or one is an error"
        )


def _near(coding: MaskClasses, codes: np.ndarray, counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """(rare, frequent) places of values that nearly are one another: two colours, or two numbers of classes that
    nobody named and that are not simply counted."""
    counted = len(codes) > 1 and codes[-1] - codes[0] < 2 * len(codes)
    unnamed = [*map(str, coding.classes.ids)] == [*coding.classes.names]
    if not coding.by_colour and (counted or not unnamed):
        return
    values = (
        np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1) if coding.by_colour else codes[:, None]
    )
    for rare in np.argsort(counts, kind="stable").tolist():
        apart = np.abs(values - values[rare]).max(1)
        near = (apart > 0) & (apart <= NEAR) & (counts > RARER * counts[rare])
        if near.any():
            yield rare, int(np.where(near, counts, -1).argmax())
