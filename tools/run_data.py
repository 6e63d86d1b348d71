"""The data of a run: opened and described, and checked against the model before the first step."""

from typing import Any

import numpy as np

from retinue.datasets.formats import describe, open_splits
from retinue.datasets.targets import DataError, Sample, Transform
from retinue.tasks.find import find
from retinue.tasks.task import Model
from retinue.tools.evaluate import check_keys
from retinue.tools.options import Train, UsageError
from retinue.tools.progress import Log
from retinue.tools.reading import readable
from retinue.tools.regions import check_regions, with_regions


def open_data(
    options: Train, log: Log, header: dict[str, Any]
) -> tuple[dict[str, Any], int, np.ndarray | None]:
    """The splits without unusable pictures, described on the log; the side of the network's input; the sizes (n, 2) of
    the training pictures, as far as they are known. header: of the model that is begun with."""
    needs = find(options.task).needs
    splits = open_splits(options.data, format=options.format, keys=needs, values=options.values)
    side = options.imgsz or header.get("imgsz") or default_side(options)
    options.imgsz = side
    splits = {name: s.with_size(side) if hasattr(s, "with_size") else s for name, s in splits.items()}
    log(describe(splits))
    if "train" not in splits:
        raise DataError(f"{options.data}: nothing to train on; its splits are {', '.join(splits)}")
    used = {
        name: s
        for name, s in splits.items()
        if name == "train" or name == ("val" if "val" in splits else "test")
    }
    sizes: dict[str, np.ndarray] = {}
    used = with_regions(readable(used, options.strict, log, sizes), options.regions, log)
    return used, side, sizes.get("train")


def default_side(options: Train) -> int:
    """Scenes are rendered small; else a task says how large pictures it reads, to descend or to be fitted."""
    if options.data.partition(":")[0] == "scenes":
        return 64
    kind = find(options.task)
    return kind.default_side if options.method == "descend" else kind.fitted_side


def check_fit(
    model: Model,
    splits: dict[str, Any],
    side: int,
    sizes: np.ndarray | None,
    options: Train,
    ranks: int,
) -> None:
    """Name what does not fit before the first step rather than in the middle of it."""
    check_regions(model.named_tasks, options.regions)
    for split in splits.values():
        check_keys(model.named_tasks, split, options.data)
    for size in canvases(model, side, sizes):
        try:
            model.backbone.output_sizes(*size)
        except ValueError as error:
            raise UsageError(f"imgsz={side}: {error}") from None
    count = len(splits["train"])
    if options.batch < ranks or count < ranks:
        raise UsageError(f"batch={options.batch} on {count} pictures: {ranks} processes need one each")


def canvases(model: Model, side: int, sizes: np.ndarray | None) -> set[tuple[int, int]]:
    """(height, width) of what the network is given of the tallest, the widest, the smallest and the largest picture."""
    sizes = np.full((1, 2), side) if sizes is None or not len(sizes) else sizes
    heights, widths = sizes.T.astype(np.float64)
    kinds = (heights / widths, heights * widths)
    extremes = {int(place(values)) for values in kinds for place in (np.argmin, np.argmax)}
    task = next(iter(model.named_tasks.values()))
    found = set()
    for height, width in {tuple(sizes[i].tolist()) for i in extremes}:
        blank = Sample("", np.zeros((height, width, model.backbone.in_channels), np.uint8))
        for transform in (task.train_transform(side), task.eval_transform(side)):
            found.add(canvas_of(transform, blank, model.backbone.preprocessing.divisor))
    return found


def canvas_of(transform: Transform, sample: Sample, divisor: int) -> tuple[int, int]:
    """(height, width) of the canvas that a sample has alone, after a transform."""
    shown = transform(sample, np.random.default_rng(0), lambda _: sample)
    height, width = (-(-length // divisor) * divisor for length in shown.image.shape[:2])
    return height, width
