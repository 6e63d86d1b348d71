"""Scan a data set's pictures before work begins: what cannot be read is skipped and named, or stops everything."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from retinue.datasets.scan import usable
from retinue.datasets.targets import DataError
from retinue.tools.loader import default_workers
from retinue.tools.progress import Log, counting, up_to

SHOWN = 50
"""Unusable files named one by one."""


def with_channels(dataset: Any, channels: int) -> Any:
    """The split with its pictures read as so many channels; DataError where they have another number."""
    own = getattr(dataset, "channels", 3)
    if own == channels:
        return dataset
    if not hasattr(dataset, "path"):
        raise DataError(f"these pictures have {own} channels, the model reads {channels}; use channels={own}")
    chosen = copy.copy(dataset)
    chosen.channels = channels
    return chosen


def readable(
    splits: dict[str, Any], strict: bool, log: Log, sizes: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """The splits without their unusable pictures, each of which is named with the reason.

    What the reader does to odd pictures (palette, CMYK, 16 bits, ...) is counted and said. `sizes` is given, by split,
    (height, width) of the pictures that are left, (n, 2) int32, as they are shown. Raises DataError with `strict`,
    naming them all, or where a split has none left.
    """
    sizes = {} if sizes is None else sizes
    return {name: _readable(name, split, strict, log, sizes) if hasattr(split, "path") else split
            for name, split in splits.items()}  # fmt: skip


def _readable(name: str, dataset: Any, strict: bool, log: Log, sizes: dict[str, np.ndarray]) -> Any:
    notes: Counter[str] = Counter()
    before = len(dataset.skipped)
    found: dict[Path, tuple[int, int]] = {}
    with counting(f"scan {name}", log, len(dataset)) as step:
        good = usable(dataset, max(1, default_workers()), up_to(step), strict, notes, found)
    sizes[name] = np.array([found[good.path(i)] for i in range(len(good))], np.int32)
    skipped = good.skipped[before:]
    for path, reason in skipped[:SHOWN]:
        log(f"skipped: {path}: {reason}")
    if skipped:
        more = f" ({len(skipped) - SHOWN} of them not shown)" if len(skipped) > SHOWN else ""
        log(
            f"{name}: {len(skipped)} of {len(dataset)} pictures cannot be used{more}; strict=true stops instead"
        )
    for note, count in notes.most_common():
        log(f"{name}: {count} pictures: {note}")
    return good
