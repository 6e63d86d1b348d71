"""The speed figures of the README, each a ratio of medians measured in one run, the rivals taking turns.

retinue bench train         training on resnet18 at 224 against a hand-written torch loop over the same transforms
retinue bench detection     detectors against torchvision's, with the same weights
retinue bench segmentation  fcn_resnet50 against torchvision's, with the same weights
retinue bench yolox         YOLOX-nano from file to drawn boxes against onnxruntime, with the same weights
retinue bench data          reading and augmenting, detection style, on one core
retinue bench scenes        rendering
retinue bench startup       `retinue --help` against an empty Python
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader

from retinue.datasets.pictures import read_picture
from retinue.datasets.plain import find_pictures
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import Sample, to_tensor
from retinue.datasets.transforms import detection_style
from retinue.tools.bench_detection import bench_detection
from retinue.tools.bench_segmentation import bench_segmentation
from retinue.tools.bench_yolox import bench_yolox
from retinue.tools.drawings import write_picture
from retinue.tools.loader import start_worker
from retinue.tools.loop import train_epoch
from retinue.tools.options import Bench, UsageError, closest, make
from retinue.tools.progress import Log
from retinue.tools.run_folder import write_json
from retinue.tools.setup import Setup, prepare, resolve_rates
from retinue.tools.take_turns import ratio, take_turns
from retinue.tools.training_run import Run, start

PICTURES, BATCH, SIDE = 64, 16, 224


class HandWritten:
    """What one would write without a suite: torchvision's resnet18, fp32, a DataLoader over the same transform."""

    def __init__(self, setup: Setup, workers: int) -> None:
        self.dataset, self.transform = setup.train_set, setup.task.train_transform(SIDE)
        self.model = torchvision.models.resnet18(num_classes=len(setup.train_set.classes))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        self.loader: DataLoader[Any] = DataLoader(
            self,  # type: ignore[arg-type]
            BATCH,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=start_worker,
        )
        self.mean = torch.tensor(setup.model.backbone.preprocessing.mean).view(3, 1, 1)
        self.std = torch.tensor(setup.model.backbone.preprocessing.std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        sample = self.dataset[index]
        moved = self.transform(sample, np.random.default_rng(index), None)
        return to_tensor(moved.image), int(moved.targets["label"])

    def epoch(self) -> float:
        """Seconds of one pass over the data."""
        self.model.train()
        begin = time.perf_counter()
        for images, labels in self.loader:
            loss = nn.functional.cross_entropy(self.model((images - self.mean) / self.std), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
        return time.perf_counter() - begin


def timed_epoch(setup: Setup, run: Run) -> float:
    """Seconds of one epoch of ours."""
    begin = time.perf_counter()
    train_epoch(setup, run, PICTURES // BATCH)
    run.epoch, run.step, run.sums = run.epoch + 1, 0, {}
    return time.perf_counter() - begin


def bench_train(options: Bench) -> Iterator[dict[str, float]]:
    """Training throughput: ours in fp32 and in bf16 over the hand-written fp32 loop."""
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), PICTURES)
        rivals: dict[str, Callable[[], float]] = {}
        for precision in ("fp32", "bf16"):
            settings = {
                "task": "classification",
                "data": folder,
                "backbone": "resnet18",
                "imgsz": SIDE,
                "json": "-",
            }
            setup = prepare(
                {**settings, "batch": BATCH, "precision": precision, "workers": 1, "epochs": 10**6}
            )
            setup.log, setup.draws = Log(quiet=True), False
            resolve_rates(setup, lambda _: 1e-3)
            run = start(setup)
            rivals[precision] = lambda setup=setup, run=run: timed_epoch(setup, run)  # type: ignore[misc]
        hand_written = HandWritten(setup, workers=1)
        rivals["torch loop"] = hand_written.epoch
        times = take_turns(rivals, options.seconds)
    yield {
        "train/pictures_per_second": PICTURES / statistics.median(times["fp32"]),
        "train/fp32_over_torch_loop": ratio(times, "torch loop", "fp32"),
        "train/bf16_over_torch_loop_fp32": ratio(times, "torch loop", "bf16"),
    }


def write_scenes(folder: Path, count: int) -> None:
    """An image folder of rendered scenes as JPEG, 256 px, with a train split."""
    scenes = Scenes(count, 256)
    for i, sample in enumerate(scenes):
        place = folder / "train" / scenes.classes.names[int(sample.targets["label"])]
        place.mkdir(parents=True, exist_ok=True)
        write_picture(place / f"{i:04d}.jpg", sample.image)


def bench_data(options: Bench) -> Iterator[dict[str, float]]:
    """Pictures per second on one core: decode, flip, affine warp to 512, colour jitter, boxes, tensor."""
    threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            for i, sample in enumerate(Scenes(32, (480, 640))):
                write_picture(Path(folder) / f"{i}.jpg", sample.image)
        paths = find_pictures([options.data or folder])[:200]
        recipe, rng = detection_style(512), np.random.default_rng(0)
        boxes = np.array([[100, 100, 200, 180], [50, 40, 300, 200], [10, 10, 60, 90]], np.float32)
        targets: dict[str, np.ndarray] = {"boxes": boxes, "box_labels": np.zeros(3, np.int64)}

        def read_all() -> float:
            begin = time.perf_counter()
            for path in paths:
                sample = Sample(str(path), read_picture(path).image, dict(targets))
                to_tensor(recipe(sample, rng, None).image)
            return time.perf_counter() - begin

        times = take_turns({"ours": read_all}, min(options.seconds, 20))
    cv2.setNumThreads(threads[0])
    torch.set_num_threads(threads[1])
    yield {"data/pictures_per_second_per_core": len(paths) / statistics.median(times["ours"])}


def bench_scenes(options: Bench) -> Iterator[dict[str, float]]:
    """Rendered scenes per second, 128 x 128, every target, in one process."""
    scenes = Scenes(10**6)
    position = iter(range(10**6))

    def render() -> float:
        begin = time.perf_counter()
        for _ in range(20):
            scenes[next(position)]
        return time.perf_counter() - begin

    times = take_turns({"render": render}, min(options.seconds, 10))["render"]
    yield {"scenes/per_second_per_process": 20 / statistics.median(times)}


def bench_startup(options: Bench) -> Iterator[dict[str, float]]:
    """Seconds that `retinue --help` takes over an empty Python."""

    def process(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin

    code = "import sys; from retinue.tools.command import main; sys.exit(main(['--help']))"
    times = take_turns(
        {"help": lambda: process(code), "pass": lambda: process("pass")}, min(options.seconds, 10)
    )
    extra = statistics.median(h - p for h, p in zip(times["help"], times["pass"]))
    yield {"startup/help_seconds_over_empty_python": extra}


BENCHES = {
    "train": bench_train,
    "detection": bench_detection,
    "segmentation": bench_segmentation,
    "yolox": bench_yolox,
    "data": bench_data,
    "scenes": bench_scenes,
    "startup": bench_startup,
}


def run(settings: dict[str, Any]) -> int:
    """The command."""
    options, _ = make("bench", settings)
    if options.what not in (*BENCHES, "all"):
        near = closest(options.what, BENCHES) or "; choose all, " + ", ".join(BENCHES)
        raise UsageError(f"bench {options.what}: nothing of that name{near}")
    if options.threads:
        torch.set_num_threads(options.threads)
    log = Log(sys.stderr if options.json == "-" else None)
    values: dict[str, float] = {}
    for name, bench in BENCHES.items():
        if options.what in (name, "all"):
            for found in bench(options):
                for key, value in found.items():
                    log(f"{key:<42} {value:.3f}")
                values |= found
                write_json(
                    options.json if options.json != "-" else None, values
                )  # a later fault loses nothing
    if options.json == "-":
        write_json("-", values)
    return 0
