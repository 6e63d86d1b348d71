"""Features and a linear classifier (method=linear, method=svm): the lectures' claim that learned features are generic.

The backbone runs once over the pictures; scikit-learn fits the last layer to the cached features. With shots=K the
curve of accuracy over pictures a class is drawn, beside the same network trained from scratch on the same pictures
(Zeiler & Fergus 2013, arXiv:1311.2901, figure 9).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import retinue.backbones
from retinue.datasets.targets import DataError
from retinue.tasks import model_file
from retinue.tasks.classification.fit import Shots, few_shot_curve, few_shot_subset
from retinue.tasks.classification.plots import draw_curve
from retinue.tasks.fused import fused_model
from retinue.tasks.task import Model
from retinue.tools import evaluate, run_folder
from retinue.tools.devices import autocast
from retinue.tools.feature_file import FeatureFile
from retinue.tools.loader import Loader, View, evaluation_keys, workers_for
from retinue.tools.loop import train_epoch
from retinue.tools.options import UsageError
from retinue.tools.progress import Log, track
from retinue.tools.setup import Setup
from retinue.tools.training_run import start

FROM_SCRATCH = 1e-3
"""Learning rate of the from-scratch contrast."""


@dataclasses.dataclass
class Subset:
    """Some of a data set's pictures, by index."""

    dataset: Any
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]


def check_fit(setup: Setup) -> None:
    """Name what cannot be fitted, before there is any folder: UsageError for a task that cannot be fitted like that
    or for several processes, DataError where there is nothing to judge on or fewer pictures than shots."""
    task, options = setup.task, setup.options
    if options.method not in task.FITTED:
        said = f"fitted by method={' or '.join(task.FITTED)}" if task.FITTED else "not fitted but descended"
        raise UsageError(f"method={options.method}: {options.task} is {said}; leave method out")
    if setup.ranks > 1:
        raise UsageError(f"method={options.method} runs in one process")
    if setup.val_set is None:
        raise DataError(f"{options.data}: no val or test split to judge the classifier on")
    shots = shot_ladder(options.shots)
    if shots and "label" not in task.needs:
        raise UsageError(
            f"shots={options.shots} are pictures of a class, which {options.task} does not learn from"
        )
    check_shots(shots, setup.train_set)


def probe(setup: Setup, history: Sequence[dict[str, float]] = ()) -> None:
    """Fit the head to features, evaluate it from pixels, save it like any model; with shots, draw the curve too.

    history: rows of `results.csv` of the descent that came before.
    """
    task, options, log = setup.task, setup.options, setup.log
    setup.model.to(setup.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    examples = embed(setup, setup.train_set, "train")
    task.fit(*examples, method=options.method, seed=options.seed, say=log)
    values = judge_and_save(setup, history)
    if shots := shot_ladder(options.shots):
        rows = curve(setup, examples[0], examples[1], shots)
        run_folder.write_json(str(setup.folder / "shots.json"), rows)
        values |= {f"shots{row['shots']}/{row['series']}": row["mean"] for row in rows}
    log(f"results in {setup.folder}")
    log(f"next: retinue predict {setup.folder} YOUR_PICTURES")
    run_folder.write_json(options.json, {"run": str(setup.folder), **values})


def shot_ladder(text: str | None) -> list[int]:
    """shots=6 -> 1, 2, 4, 6; shots=1,3,9 -> as given. UsageError for anything else."""
    if not text:
        return []
    try:
        numbers = [int(part) for part in str(text).split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise UsageError(f"shots={text}: pictures a class, a whole number from 1, or several with commas")
    if len(numbers) > 1:
        return sorted(set(numbers))
    powers = [2**k for k in range(numbers[0].bit_length()) if 2**k < numbers[0]]
    return [*powers, numbers[0]]


def check_shots(shots: list[int], dataset: Any) -> None:
    """DataError where a class has fewer pictures than the most shots."""
    if not shots or not hasattr(dataset, "class_counts"):
        return
    for name, count in zip(dataset.classes.names, dataset.class_counts().tolist()):
        if 0 < count < max(shots):
            raise DataError(f"shots={max(shots)}: class {name!r} has only {count} training pictures")


def embed(setup: Setup, dataset: Any, what: str) -> list[np.ndarray]:
    """The task's examples of all pictures of a data set, each computed once; they lie on the disk of the run."""
    task, preparation = setup.task, setup.model.backbone.preprocessing
    workers = workers_for(setup.options.workers)
    loader = Loader(
        View(dataset, task.eval_transform(setup.side), task.target_keys(), inputs=task.inputs),
        workers,
        preparation.pad,
        preparation.divisor,
    )
    model, precision = setup.model, setup.precision
    if setup.device.type == "cpu":
        model = fused_model(model, torch.bfloat16 if precision == "bf16" else torch.float32)
        precision = "fp32"  # it has its precision built in
    (reader,) = model.named_tasks.values()
    keys = evaluation_keys(len(dataset), setup.options.batch)
    cache = FeatureFile(setup.folder)
    for pictures, targets in track(loader.batches(keys), f"features of {what}", setup.log, len(keys)):
        batch = pictures.to(setup.device, torch.channels_last)
        truth = [{key: value.to(setup.device) for key, value in target.items()} for target in targets]
        with torch.inference_mode(), autocast(precision, setup.device):
            examples = reader.examples(model.backbone(batch.pixels, reader.levels), batch, truth)
        cache.add([column.cpu().numpy() for column in examples])
    columns = cache.arrays()
    rows, width = columns[0].shape
    setup.log(f"features of {what}: {rows} x {width}, {sum(c.nbytes for c in columns) / 1e6:.0f} MB on disk")
    return columns


def judge_and_save(setup: Setup, history: Sequence[dict[str, float]] = ()) -> dict[str, float]:
    """Evaluate from pixels, write results and weights down, and say the figures."""
    options, folder, loader = setup.options, setup.folder, setup.val_loader
    assert loader is not None and setup.val_set is not None
    metrics = evaluate.collect(
        setup.model, loader, len(setup.val_set), options.batch, setup.device, setup.precision, setup.log
    )
    values = evaluate.figures(metrics)
    evaluate.say_figures(
        values, f"{options.method} on {options.backbone}: {len(setup.val_set)} pictures", setup.log
    )
    evaluate.say_remarks(metrics, setup.log)
    evaluate.draw_plots(setup.model.named_tasks, metrics, folder)
    epoch = len(history)
    (folder / "weights").mkdir(exist_ok=True)
    for name in ("best", "last"):
        path = folder / f"weights/{name}.safetensors"
        model_file.save(setup.model, path, **setup.facts, epoch=epoch, metrics=run_folder.finite(values))
    own = {key: value for key, value in values.items() if not evaluate.per_class(key, values)}
    rows = [*history, {"epoch": epoch, **own}]
    run_folder.write_results(folder, rows)
    if history:
        run_folder.plot_results(folder, rows, setup.shown)
    setup.draw_predictions(setup.model)
    return values


def curve(setup: Setup, features: np.ndarray, labels: np.ndarray, shots: list[int]) -> list[dict[str, Any]]:
    """Accuracy over pictures a class: features against from scratch, on the same draws; draws `shots.png`."""
    options, log = setup.options, setup.log
    test_features, test_labels, *_ = embed(setup, setup.val_set, "val")
    method = options.method
    assert method != "descend"
    series = {
        f"{options.backbone} features, {method}": few_shot_curve(
            features, labels, test_features, test_labels, shots, options.seeds, method
        )
    }
    if options.scratch_epochs:
        name = f"{options.backbone} from scratch"
        series[name] = []
        work = [(count, seed) for count in shots for seed in range(options.seeds)]
        accuracies: dict[int, list[float]] = {}
        for count, seed in track(work, "from scratch", log, len(work)):
            chosen = few_shot_subset(labels, count, seed)
            accuracies.setdefault(count, []).append(from_scratch(setup, chosen, seed))
        series[name] = [Shots.of(count, values) for count, values in accuracies.items()]
    for name, rows in series.items():
        for row in rows:
            log(f"  {name}: {row.shots} a class: {row.mean:.3f} ± {row.deviation:.3f}")
    draw_curve(series, str(setup.folder / "shots.png"), chance=1 / len(setup.train_set.classes))
    return [{"series": name, **row._asdict()} for name, rows in series.items() for row in rows]


def from_scratch(setup: Setup, chosen: np.ndarray, seed: int) -> float:
    """Top-1 of the same backbone trained from random weights on the chosen pictures only."""
    torch.manual_seed(seed)
    options = dataclasses.replace(
        setup.options,
        epochs=setup.options.scratch_epochs,
        batch=min(setup.options.batch, len(chosen)),
        seed=seed,
    )
    backbone = retinue.backbones.build(options.backbone, None, in_channels=options.channels)
    backbone.prepare_for(setup.model.backbone.preprocessing)
    task = type(setup.task)(backbone, setup.task.classes, **setup.task.settings)  # type: ignore[call-arg]
    own = dataclasses.replace(
        setup,
        options=options,
        model=Model(backbone, {"classification": task}),
        splits=setup.splits | {"train": Subset(setup.train_set, chosen)},
        sizes=None,
        learning_rates=(FROM_SCRATCH, FROM_SCRATCH),
        log=Log(quiet=True),
        draws=False,
    )
    view = View(own.train_set, task.train_transform(setup.side), task.target_keys(), seed)
    own.train_loader = Loader(view, 0)
    run = start(own)
    setup.accelerator.free_memory()  # it would keep every model that it has seen
    for _ in range(options.epochs):
        train_epoch(own, run, -(-len(chosen) // options.batch))
        run.epoch, run.step, run.sums = run.epoch + 1, 0, {}
    assert setup.val_loader is not None and setup.val_set is not None
    metrics = evaluate.collect(
        run.model,
        setup.val_loader,
        len(setup.val_set),
        options.batch,
        setup.device,
        setup.precision,
        own.log,
    )
    return evaluate.figures(metrics)["top1"]
