"""Predict on pictures and folders: every task's results from one pass, drawn, and as json.

from retinue.tools.predict import predict
for path, results in predict("runs/classification/resnet18", "photos/"):
    print(path, results["classification"].label)
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from retinue.datasets.pictures import read_picture
from retinue.datasets.plain import find_pictures
from retinue.datasets.targets import DataError, Sample, collate
from retinue.tasks.model_file import write_atomically
from retinue.tasks.task import Model, Task
from retinue.tools.devices import autocast, resolve_device, resolve_precision
from retinue.tools.open_model import open_model
from retinue.tools.options import Predict, make
from retinue.tools.progress import Log
from retinue.tools.run_folder import new_folder, write_json


class Predicted(NamedTuple):
    """A picture's path and, by task, what was predicted of it (a `Result`)."""

    path: Path
    results: dict[str, Any]


@dataclasses.dataclass
class Predictor:
    """A model ready to predict: built once, asked for many pictures."""

    model: Model
    side: int
    device: torch.device
    precision: str

    @classmethod
    def open(
        cls, name: str, weights: str | None = None, device: str | None = None, precision: str = "auto"
    ) -> "Predictor":
        """From a run's folder, a saved file, or a backbone's name; DataError where it is none of these."""
        where = resolve_device(device)
        model, header, _ = open_model(name, weights, where)
        asked = header.get("precision", "auto") if precision == "auto" else precision
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, header["imgsz"], where, resolve_precision(asked, where))

    @property
    def task(self) -> Task:
        """The first task: its evaluation transform brings the pictures to the network."""
        return next(iter(self.model.named_tasks.values()))

    def __call__(
        self, pictures: Sequence[np.ndarray], ids: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Results by task, one dict a picture (h, w, channels) uint8 or uint16 RGB, in that picture's own pixels.

        Raises DataError for an array that is no such picture.
        """
        if not len(pictures):
            return []
        names = ids or [str(i) for i in range(len(pictures))]
        for name, picture in zip(names, pictures, strict=True):
            check_array(name, picture, self.model.backbone.in_channels)
        transform, rng = self.task.eval_transform(self.side), np.random.default_rng(0)
        samples = [transform(Sample(name, picture), rng, None) for name, picture in zip(names, pictures)]
        preparation = self.model.backbone.preprocessing
        batch, _ = collate(samples, preparation.pad, preparation.divisor)
        with torch.inference_mode(), autocast(self.precision, self.device):
            results = self.model.predict(batch.to(self.device, torch.channels_last))
        return [{task: values[i] for task, values in results.items()} for i in range(len(samples))]


def predict(model: str, source: str | Path | Sequence[str | Path], **settings: Any) -> list[Predicted]:
    """Predict on pictures, folders and globs; nothing is written or printed. The options are `options.Predict`'s.

    Pictures that cannot be read are left out with a warning on standard error; with `strict=True` they raise
    DataError.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    options, _ = make("predict", {"model": model, "source": [str(s) for s in sources], **settings})
    predictor = Predictor.open(options.model, options.weights, options.device, options.precision)
    paths = find_pictures(options.source)
    return [found for found, _ in stream(predictor, paths, options, Log(sys.stderr), [])]


def check_array(name: str, picture: np.ndarray, channels: int) -> None:
    """DataError where an array is not a picture (h, w, channels) uint8 or uint16."""
    if picture.ndim != 3 or picture.shape[2] != channels or not picture.size:
        raise DataError(f"picture {name}: shape {picture.shape}; give (height, width, {channels}), RGB")
    if picture.dtype not in (np.uint8, np.uint16):
        raise DataError(f"picture {name}: {picture.dtype}; give uint8 in 0..255 or uint16 in 0..65535")


def stream(
    predictor: Predictor, paths: Sequence[Path], options: Predict, log: Log, skipped: list[dict[str, str]]
) -> Iterator[tuple[Predicted, np.ndarray]]:
    """Each picture's results with the picture itself, in order; unusable ones are named and go into `skipped`."""
    for start in range(0, len(paths), options.batch):
        usable, pictures = [], []
        for path in paths[start : start + options.batch]:
            try:
                pictures.append(read_picture(path, predictor.model.backbone.in_channels).image)
                usable.append(path)
            except DataError as error:
                if options.strict:
                    raise
                log(f"skipped: {error}")
                skipped.append({"path": str(path), "reason": str(error)})
        if usable:
            results = predictor(pictures, [str(path) for path in usable])
            for path, picture, result in zip(usable, pictures, results):
                yield Predicted(path, result), picture


def run(settings: dict[str, Any]) -> int:
    """The command: one line a picture, drawings and `results.json` in a new folder, one summary line."""
    options, _ = make("predict", settings)
    if not options.model or not options.source:
        raise DataError(
            "predict with what, on what? e.g. `retinue predict runs/classification/resnet18 photo.jpg`"
        )
    log = Log(sys.stderr if options.json == "-" else None)
    predictor = Predictor.open(options.model, options.weights, options.device, options.precision)
    paths = find_pictures(options.source)
    name = options.name or Path(options.model).resolve().name.removesuffix(".safetensors")
    folder = new_folder(Path(options.project), name, dataclasses.asdict(options), options.exist_ok)
    records: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    values = {"model": options.model, "results": records, "skipped": skipped}
    try:
        for (path, results), picture in stream(predictor, paths, options, log, skipped):
            record = {"path": str(path), **{task: result.to_json() for task, result in results.items()}}
            if options.draw:
                record["drawn"] = draw_results(path, picture, results, folder)
            records.append(record)
            log(f"{path}: {'; '.join(str(result) for result in results.values())}")
    finally:  # what was computed is kept, however it ends
        write_json(str(folder / "results.json"), values)
    write_json(options.json, values)
    if not records:
        raise DataError(f"none of the {len(skipped)} pictures could be read; first: {skipped[0]['reason']}")
    note = f", {len(skipped)} skipped" if skipped else ""
    log(f"{len(records)} picture{'s' if len(records) != 1 else ''}{note} -> {folder}")
    return 0


def draw_results(path: Path, picture: np.ndarray, results: dict[str, Any], folder: Path) -> list[str]:
    """Draw every task's result into the folder; returns the files' names."""
    names = []
    for task, result in results.items():
        names.append(file_name(path, task if len(results) > 1 else "", folder))
        write_picture(folder / names[-1], result.draw(three_channels(picture)))
    return names


def file_name(path: Path, task: str, folder: Path) -> str:
    """A name for the drawn picture that is not taken in the folder: the picture's own, a number where it is."""
    stem = f"{path.stem}-{task}" if task else path.stem
    suffix = ".png" if path.suffix.lower() == ".png" else ".jpg"
    number, name = 1, f"{stem}{suffix}"
    while (folder / name).exists():
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name


def three_channels(picture: np.ndarray) -> np.ndarray:
    """Something to draw on: (h, w, 3) uint8, whatever the network reads."""
    if picture.dtype == np.uint16:
        picture = (picture // 257).astype(np.uint8)
    return picture[..., :3].copy() if picture.shape[2] >= 3 else picture[..., :1].repeat(3, axis=2)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """A picture (h, w, 3) uint8 RGB to a file, whole or not at all."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix.lower() in (".jpg", ".jpeg") else []
    data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)[1]
    write_atomically(path, lambda file: file.write(data.tobytes()))
