"""`regions=FILE`: proposals from a file beside the pictures, for a task that is given them (Fast R-CNN)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retinue.datasets.proposals import Proposals, read_proposals, with_proposals
from retinue.datasets.targets import DataError
from retinue.tasks.task import Task
from retinue.tools.progress import Log


def check_regions(tasks: Mapping[str, Task], regions: str | None) -> None:
    """DataError where a task needs proposals and there are none, or where there are some that no task reads."""
    reading = [name for name, task in tasks.items() if "proposals" in task.inputs]
    if reading and not regions:
        raise DataError(
            f"{reading[0]} needs proposals: regions=FILE, which `retinue propose MODEL data=... out=FILE` writes; "
            "MODEL is selective_search or a trained Faster R-CNN"
        )
    if regions and not reading:
        raise DataError(
            f"regions={regions}: {', '.join(tasks)} is given no proposals, fast_rcnn is; leave it out"
        )


def with_regions(splits: Mapping[str, Any], regions: str | None, log: Log) -> dict[str, Any]:
    """The splits, with the proposals of a file beside their pictures where one is asked for."""
    if not regions:
        return dict(splits)
    proposals = read_proposals(regions)
    log(f"regions  {regions}: {len(proposals.boxes)} proposals of {len(proposals)} pictures")
    return with_proposals(splits, proposals)


def beside(path: Path, size: tuple[int, int], proposals: Proposals | None) -> dict[str, np.ndarray]:
    """What a picture file of (height, width) is predicted with; DataError where its proposals are missing."""
    if proposals is None:
        return {}
    place = int(proposals.find([os.path.abspath(path)])[0])
    if place < 0:
        raise DataError(
            f"{path}: no proposals in {proposals.name}; retinue propose MODEL {path} out=FILE makes them"
        )
    return {"proposals": proposals.of(place, size)}
