"""Evaluate a model on data, from pixels: one path for training's validation and for `retinue eval`."""

import math
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from retinue.datasets.formats import evaluation_split, numbered, open_splits
from retinue.datasets.targets import DataError, Pictures, Sample, Target
from retinue.datasets.transforms import Compose
from retinue.tasks.task import Metric, Model, Task
from retinue.tools import run_folder
from retinue.tools.devices import autocast, resolve_device, resolve_precision
from retinue.tools.inference import ONE_PASS, Inference
from retinue.tools.judge import judge
from retinue.tools.loader import Loader, OneByOne, View, evaluation_keys, workers_for
from retinue.tools.open_model import answer_settings, open_model
from retinue.tools.options import Eval, make
from retinue.tools.progress import Log, track
from retinue.tools.reading import readable, with_channels
from retinue.tools.regions import check_regions, with_regions

MANY = 40
"""Classes beyond which those that are n/a have no line."""


def collect(
    model: Model,
    loader: Loader | OneByOne,
    count: int,
    batch: int,
    device: torch.device,
    precision: str,
    log: Log,
    inference: Inference = ONE_PASS,
) -> dict[str, Metric]:
    """Every task's metric over a data set of `count` pictures, merged over all processes. Batches are whole
    before they are shared out: the figures do not depend on the number of processes."""
    distributed = dist.is_available() and dist.is_initialized()
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)
    metrics = {name: task.metric() for name, task in model.named_tasks.items()}
    keys = evaluation_keys(count, batch, rank, ranks)
    model.eval()
    batches: Iterable[tuple[Pictures | Sample, list[Target]]] = loader.batches(keys)
    for seen, targets in track(batches, "evaluate", log, len(keys)):
        with torch.inference_mode(), autocast(precision, device):
            results = inference.batch(model, seen)
        ids = [seen.id] if isinstance(seen, Sample) else seen.ids
        for name, metric in metrics.items():
            metric.update(ids, results[name], targets)
    if distributed:
        gathered: list[Any] = [None] * ranks
        dist.all_gather_object(gathered, metrics)
        metrics = {name: task.metric() for name, task in model.named_tasks.items()}
        for part in gathered:
            for name, metric in metrics.items():
                metric.merge(part[name])
    return metrics


def figures(metrics: dict[str, Metric]) -> dict[str, float]:
    """Flat names -> values; the task's name goes in front only where there are several tasks."""
    if len(metrics) == 1:
        return next(iter(metrics.values())).compute()
    return {
        f"{name}/{key}": value for name, metric in metrics.items() for key, value in metric.compute().items()
    }


def eval_loader(
    task: Task,
    dataset: Any,
    side: int,
    workers: int,
    pad: float | Sequence[float] = 0.0,
    divisor: int = 1,
) -> Loader:
    """Batches for evaluation: the task's own evaluation transform, targets in the file's frame."""
    view = View(dataset, task.eval_transform(side), task.target_keys(), file_frame=True, inputs=task.inputs)
    return Loader(view, workers, pad, divisor)


def check_keys(tasks: dict[str, Task], dataset: Any, source: str) -> None:
    """DataError where the data lack a target that a task cannot do without."""
    for name, task in tasks.items():
        if missing := task.needs - dataset.keys:
            raise DataError(f"{name} needs {sorted(missing)}, but {source} gives {sorted(dataset.keys)}")


def evaluate(model: str = "", **settings: Any) -> dict[str, float]:
    """Evaluate a run, a saved model, or a published one; the options are `options.Eval`'s, and settings of its answer.

    Returns flat metric names -> values. Raises DataError where data and model do not fit each other.

    >>> from retinue.tools.evaluate import evaluate          # doctest: +SKIP
    >>> evaluate("runs/classification/mobilenet_v2", data="photos")["top1"]  # doctest: +SKIP
    """
    options, asked = make("eval", {"model": model, **settings}, answer_settings())
    if options.predictions and asked:
        raise DataError(f"{', '.join(asked)}: predictions={options.predictions} are judged as they are")
    if options.predictions:
        return judge_file(options)
    if not options.model:
        raise DataError("eval what? e.g. `retinue eval runs/classification/resnet18 data=photos`")
    log = Log(sys.stderr if options.json == "-" else None)
    device = resolve_device(options.device)
    loaded, header, path = open_model(options.model, options.weights, device, asked)
    precision = resolve_precision(options.precision, device)
    if options.precision == "auto":
        precision = header.get("precision", precision)
    batch, side = options.batch or header.get("batch", 32), header["imgsz"]
    task = next(iter(loaded.named_tasks.values()))
    keys = frozenset[str]().union(*(each.needs for each in loaded.named_tasks.values()))
    splits = open_splits(options.data, options.format, keys, options.values)
    name = options.split or evaluation_split(splits)
    if name not in splits:
        raise DataError(f"{options.data}: no split {name!r}; it has {', '.join(splits)}")
    dataset: Any = splits[name]
    dataset = dataset.with_size(side) if hasattr(dataset, "with_size") else dataset
    check_keys(loaded.named_tasks, dataset, options.data)
    for each in loaded.named_tasks.values():
        dataset = numbered(dataset, each.classes, "semantic" in each.needs) if each.classes else dataset
    check_regions(loaded.named_tasks, options.regions)
    inference = Inference.of(options, loaded)
    dataset = with_channels(dataset, loaded.backbone.in_channels)
    dataset = with_regions(readable({name: dataset}, options.strict, log), options.regions, log)[name]
    preparation = loaded.backbone.preprocessing
    loader: Loader | OneByOne
    if inference.tile:
        batch = 1
        loader = OneByOne(View(dataset, Compose([]), task.target_keys(), file_frame=True, inputs=task.inputs))
    else:
        workers = workers_for(options.workers)
        loader = eval_loader(task, dataset, side, workers, preparation.pad, preparation.divisor)
    loaded = loaded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    metrics = collect(loaded, loader, len(dataset), batch, device, precision, log, inference)
    values = figures(metrics)
    how = " ".join([f"{precision} {inference}".strip(), *(f"{key}={value}" for key, value in asked.items())])
    say_figures(values, f"{options.model} on {options.data} ({name}, {len(dataset)} pictures, {how})", log)
    say_remarks(metrics, log)
    run_folder.write_json(options.json, values)
    if folder := plots_folder(options, path, name):
        draw_plots(loaded.named_tasks, metrics, folder)
        log(f"curves in {folder}")
    return values


def judge_file(options: Eval) -> dict[str, float]:
    """The figures of a results file, without a model."""
    if options.model:
        raise DataError(f"eval: model={options.model} or predictions={options.predictions}, not both")
    log = Log(sys.stderr if options.json == "-" else None)
    values, remarks = judge(options.predictions or "", options.data, options.split, options.format)
    say_figures(values, f"{options.predictions} on {options.data}", log)
    for remark in remarks:
        log(f"  {remark}")
    run_folder.write_json(options.json, values)
    return values


def plots_folder(options: Eval, path: Path | None, split: str) -> Path | None:
    """Where the curves go: as asked, into the run's folder, or beside a saved model that stands alone."""
    if options.plots or path is None:
        return Path(options.plots) if options.plots else None
    run = path.parent.parent
    return (
        run / f"eval-{split}" if (run / "args.yaml").is_file() else path.parent / f"{path.stem}-eval-{split}"
    )


def say_figures(values: dict[str, float], title: str, log: Log) -> None:
    """A few lines for people: the flat figures first, then a line a class; of many classes only those that occur."""
    log(title)
    of_classes: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        if figure := shared_figure(key, values):
            of_classes.setdefault(key[len(figure) + 1 :], {})[figure] = value
        else:
            log(f"  {key:<28} {number(value)}")
    columns = list(dict.fromkeys(figure for row in of_classes.values() for figure in row))
    if len(columns) > 1:
        log(f"  {'':<28} {' '.join(f'{figure:<6}' for figure in columns)}".rstrip())
    absent = {name for name, row in of_classes.items() if all(map(math.isnan, row.values()))}
    absent = absent if len(of_classes) > MANY else set()
    for name, row in of_classes.items():
        if name not in absent:
            cells = [f"{number(row.get(figure, math.nan)):<{max(6, len(figure))}}" for figure in columns]
            label = name if len(columns) > 1 else f"{columns[0]}/{name}"
            log(f"  {label:<28} {' '.join(cells)}".rstrip())
    if absent:
        log(f"  {len(absent)} classes that do not occur are n/a")


def number(value: float) -> str:
    """A figure with four decimals, n/a for NaN."""
    return "n/a" if value != value else f"{value:.4f}"


def say_remarks(metrics: dict[str, Metric], log: Log) -> None:
    """What the metrics have to say of their figures: why one is n/a, what is probably wrong where they are 0."""
    for metric in metrics.values():
        for kind in ("notes", "diagnose"):
            for line in getattr(metric, kind, list)():
                log(f"  {line}")


def per_class(key: str, values: Collection[str]) -> bool:
    """Whether a figure is one class's share of another: `box/AP/NAME` of `box/AP`."""
    return bool(shared_figure(key, values))


def shared_figure(key: str, values: Collection[str]) -> str:
    """The figure that one class has this share of: `box/AP` for `box/AP/NAME`; empty where it is none's."""
    places = (i for i, letter in enumerate(key) if letter == "/")
    return next((key[:i] for i in places if key[:i] in values), "")


def draw_plots(tasks: dict[str, Task], metrics: dict[str, Metric], folder: Path) -> None:
    """The tasks' own curves as pictures in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        for file, draw in task.plots(metrics[name]).items():
            draw(str(folder / (file if len(tasks) == 1 else f"{name}-{file}")))


def run(settings: dict[str, Any]) -> int:
    """The command."""
    evaluate(**settings)
    return 0
