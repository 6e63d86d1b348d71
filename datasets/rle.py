"""COCO's run-length codes of masks: what they are, and whether they are sound.

A code is checked here before pycocotools sees it, whose C code trusts whatever it is given.
"""

from typing import Any

import numpy as np

Rle = dict[str, Any]
"""COCO's compressed run-length code: {"size": [height, width], "counts": str}, column by column."""


def run_lengths(text: str | bytes) -> np.ndarray | None:
    """COCO's compressed code -> run lengths (n,) int64; None where it is none.

    Base 32 from the lowest digit, 48 added, bit 5 set on all but a number's last; from the fourth number on what
    is written is the difference to the last but one.
    """
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    last = np.flatnonzero(~codes & 32)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 6:
        return None
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((codes & 31) << 5 * place, first)
    runs = np.where(codes[last] & 16, runs - (1 << 5 * (last - first + 1)), runs)
    runs[1::2], runs[2::2] = np.cumsum(runs[1::2]), np.cumsum(runs[2::2])
    return runs


def fills(runs: np.ndarray | None, height: int, width: int) -> bool:
    """Whether run lengths cover a picture of this size, no more and no less; not where there are none."""
    return runs is not None and len(runs) > 0 and bool(runs.min() >= 0 and runs.sum() == height * width)


def is_rle(code: object, size: tuple[int, int]) -> bool:
    """Whether it is COCO's compressed code of a picture of `size` (height, width)."""
    if not isinstance(code, dict) or not isinstance(code.get("counts"), str):
        return False
    stated = code.get("size")
    if not isinstance(stated, list | tuple) or list(stated) != list(size):
        return False
    return fills(run_lengths(code["counts"]), *size)
