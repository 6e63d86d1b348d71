"""Read a data set the way training will and report what is wrong with it."""

import sys
from typing import Any

from retinue.datasets.check import Report
from retinue.datasets.check import check as check_splits
from retinue.datasets.formats import describe, open_splits
from retinue.datasets.targets import DataError
from retinue.tools.options import make
from retinue.tools.progress import Log, counting, up_to
from retinue.tools.run_folder import write_json


def check(data: str = "", **settings: Any) -> Report:
    """The report on a data set; the options are `options.Check`'s."""
    options, _ = make("check", {"data": data, **settings})
    if not options.data:
        raise DataError("check what? e.g. `retinue check photos/`")
    log = Log(sys.stderr if options.json == "-" else None)
    splits = open_splits(options.data, format=options.format, values=options.values)
    log(describe(splits))
    with counting("check", log, sum(len(split) for split in splits.values())) as step:
        report = check_splits(splits, progress=up_to(step))
    log(report.summary())
    write_json(options.json, report.to_json())
    return report


def run(settings: dict[str, Any]) -> int:
    """The command: status 2 where something must be mended (with strict=true, where anything was found)."""
    options, _ = make("check", settings)
    report = check(**settings)
    return 2 if report.errors or (options.strict and report.problems) else 0
