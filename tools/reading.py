"""Scan a data set's pictures before work begins: what cannot be read is skipped and named, or stops everything."""

from typing import Any

from retinue.datasets.targets import DataError
from retinue.tools.progress import Log, counting

SHOWN = 20
"""Unusable files named one by one on the screen; the log has them all."""


def scan(splits: dict[str, Any], strict: bool, log: Log) -> dict[str, Any]:
    """The splits without their unusable pictures.

    Each one is named with the reason. Raises DataError with `strict`, or where a split has none left.
    """
    clean = {}
    for name, dataset in splits.items():
        if not hasattr(dataset, "scan"):
            clean[name] = dataset
            continue
        with counting(f"scan {name}", log, len(dataset)) as step:
            broken = dataset.scan(progress=step)
        for path, reason in broken[:SHOWN]:
            log(f"unusable: {path}: {reason}")
        if broken and strict:
            raise DataError(f"{len(broken)} unusable pictures in {name}: mend or remove {broken[0][0]} ... (strict=true)")
        if broken:
            more = f" ({len(broken) - SHOWN} more not shown)" if len(broken) > SHOWN else ""
            log(f"{name}: {len(broken)} of {len(dataset)} pictures are skipped{more}; strict=true stops instead")
            dataset = dataset.without([path for path, _ in broken])
        if not len(dataset):
            raise DataError(f"{name}: no usable picture is left")
        clean[name] = dataset
    return clean
