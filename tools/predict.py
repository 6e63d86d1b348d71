"""Predict on pictures, folders and videos: every task's results from one pass, drawn, and as json.

from retinue.tools.predict import predict
for path, results in predict("runs/classification/resnet18", "photos/"):
    print(path, results["classification"].label)
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinue.datasets.pictures import read_picture
from retinue.datasets.plain import find_pictures
from retinue.datasets.proposals import Proposals, read_proposals
from retinue.datasets.targets import DataError
from retinue.datasets.video import Video, is_video
from retinue.tasks.detection.coco_results import ImageId, Record, coco_results, image_id
from retinue.tasks.detection.results import Detections
from retinue.tools.drawings import draw_results, write_files
from retinue.tools.inference import Inference
from retinue.tools.open_model import answer_settings
from retinue.tools.options import Predict, make
from retinue.tools.predict_video import Film, stream_video
from retinue.tools.predictor import Predicted, Predictor
from retinue.tools.progress import Log
from retinue.tools.regions import beside, check_regions
from retinue.tools.run_folder import finite, new_folder, write_json, write_text


def predict(model: str, source: str | Path | Sequence[str | Path], **settings: Any) -> list[Predicted]:
    """Predict on pictures, folders, globs and videos; nothing is written or printed.

    The options are `options.Predict`'s, and settings of the model's answer. Detections below `conf` are left out, and
    so are pictures and videos that cannot be read, with a warning on standard error; with `strict=True` they raise
    DataError.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    given = {"model": model, "source": [str(s) for s in sources], **settings}
    options, asked = make("predict", given, answer_settings())
    predictor, proposals = opened(options, asked)
    paths = find_pictures(options.source, videos=True)
    skip = Skips(Log(sys.stderr), options.strict)
    found = [predicted for predicted, _ in stream(predictor, paths, options, skip, proposals)]
    for path in filter(is_video, paths):
        try:
            for predicted, _ in stream_video(predictor, Video.open(path), options, skip.log):
                found.append(predicted)  # one by one: of a file that ends too early its frames are kept
        except DataError as error:
            skip(path, error)
    return [dataclasses.replace(each, results=shown(each, options.conf)) for each in found]


def shown(predicted: Predicted, conf: float) -> dict[str, Any]:
    """The results by task, detections of at least this score only."""
    return {
        task: result.above(conf) if isinstance(result, Detections) else result
        for task, result in predicted.results.items()
    }


@dataclasses.dataclass
class Skips:
    """Files that cannot be used: named, and kept for the report; with `strict` their error is raised."""

    log: Log
    strict: bool
    files: list[dict[str, str]] = dataclasses.field(default_factory=list)

    def __call__(self, path: Path, error: DataError) -> None:
        """Leave this one out."""
        if self.strict:
            raise error
        self.log(f"skipped: {error}")
        self.files.append({"path": str(path), "reason": str(error)})


def opened(options: Predict, asked: dict[str, Any]) -> tuple[Predictor, Proposals | None]:
    """The model, its answer set as asked, and the proposals that it is given beside the pictures, if any."""
    predictor = Predictor.open(
        options.model, options.weights, options.device, options.precision, options.heatmap, asked
    )
    check_regions(predictor.model.named_tasks, options.regions)
    predictor.inference = Inference.of(options, predictor.model)
    return predictor, read_proposals(options.regions) if options.regions else None


def stream(
    predictor: Predictor,
    paths: Sequence[Path],
    options: Predict,
    skip: Skips,
    proposals: Proposals | None = None,
) -> Iterator[tuple[Predicted, np.ndarray]]:
    """The results of each picture among the paths, with the picture itself, in order; unusable ones are skipped.

    Those that are answered in tiles are read one by one: they may be as large as memory allows.
    """
    pictures = [path for path in paths if not is_video(path)]
    batch = 1 if options.tile else options.batch
    for start in range(0, len(pictures), batch):
        usable, read, inputs = [], [], []
        for path in pictures[start : start + batch]:
            try:
                image = read_picture(path, predictor.model.backbone.in_channels).image
                inputs.append(beside(path, (image.shape[0], image.shape[1]), proposals))
                read.append(image)
                usable.append(path)
            except DataError as error:
                skip(path, error)
        if usable:
            results = predictor(read, [str(path) for path in usable], inputs)
            for path, picture, result in zip(usable, read, results):
                yield Predicted(path, result), picture


def run(settings: dict[str, Any]) -> int:
    """The command: a line a picture or video, drawings and `results.json` in a new folder, one summary line.

    Label masks and what else a result has as files lie beside the drawings of pictures. Detections of pictures also go
    into `predictions.json`, COCO's results format, which `retinue eval` judges.
    """
    options, asked = make("predict", settings, answer_settings())
    if not options.model or not options.source:
        raise DataError(
            "predict with what, on what? e.g. `retinue predict runs/classification/resnet18 photo.jpg`"
        )
    log = Log(sys.stderr if options.json == "-" else None)
    predictor, proposals = opened(options, asked)
    paths = find_pictures(options.source, videos=True)
    name = options.name or Path(options.model).resolve().name.removesuffix(".safetensors")
    folder = new_folder(Path(options.project), name, dataclasses.asdict(options), options.exist_ok)
    records: list[dict[str, Any]] = []
    skip, coco = Skips(log, options.strict), CocoFiles(log)
    values = {"model": options.model, "results": records, "skipped": skip.files}
    try:
        for predicted, picture in stream(predictor, paths, options, skip, proposals):
            results = shown(predicted, options.conf)
            record = {"path": str(predicted.path), **to_json(results)}
            if options.draw:
                record["drawn"] = draw_results(predicted.path, picture, results, folder)
            if files := write_files(predicted.path, picture, results, folder):
                record["files"] = files
            records.append(record)
            coco.add(predicted)
            log(f"{predicted.path}: {'; '.join(str(result) for result in results.values())}")
        pictures = len(records)
        for path in filter(is_video, paths):
            run_video(predictor, path, options, folder, skip, records)
    finally:  # what was computed is kept, however it ends
        write_json(str(folder / "results.json"), values)
        coco.write(folder)
    write_json(options.json, values)
    if not records:
        raise DataError(
            f"none of the {len(skip.files)} files could be read; first: {skip.files[0]['reason']}"
        )
    parts = [count(pictures, "picture"), count(len(records) - pictures, "frame")]
    if skip.files:
        parts.append(f"{len(skip.files)} skipped")
    log(f"{', '.join(part for part in parts if part)} -> {folder}")
    return 0


def run_video(
    predictor: Predictor,
    path: Path,
    options: Predict,
    folder: Path,
    skip: Skips,
    records: list[dict[str, Any]],
) -> None:
    """A record a frame, with its number and its time in seconds, and a drawn video."""
    try:
        video = Video.open(path)
        with Film(video, folder, options, skip.log) as film:
            for predicted, picture in stream_video(predictor, video, options, skip.log):
                results = shown(predicted, options.conf)
                film.add(results, picture)
                place = {"path": str(path), "frame": predicted.frame, "time": predicted.time}
                records.append({**place, **to_json(results), "drawn": film.names})
    except DataError as error:
        skip(path, error)


def to_json(results: dict[str, Any]) -> dict[str, Any]:
    """Plain values by task."""
    return {task: result.to_json() for task, result in results.items()}


def count(number: int, what: str) -> str:
    """ "1 picture", "2 pictures", "" for none."""
    return f"{number} {what}{'s' if number != 1 else ''}" if number else ""


class CocoFiles:
    """Every detection of every picture in COCO's results format, whatever its score, a file a task.

    A picture's id is `coco_results.image_id`, its path where that id is taken. Frames of videos have no such id: they
    stand in `results.json` alone.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self.records: dict[str, list[Record]] = {}
        self.taken: dict[ImageId, Path] = {}

    def add(self, predicted: Predicted) -> None:
        """Take in the detections of one picture."""
        found = {task: r for task, r in predicted.results.items() if isinstance(r, Detections)}
        if not found:
            return
        path, id = predicted.path, image_id(str(predicted.path))
        if (other := self.taken.setdefault(id, path)) != path:
            self.log(
                f"{path}: image_id {id!r} is that of {other}; in predictions.json it has its path instead"
            )
            id = str(path)
        for task, result in found.items():
            self.records.setdefault(task, []).extend(coco_results(result, id))

    def write(self, folder: Path) -> None:
        """Write `predictions.json`, with the task's name where there are several; a line a detection."""
        for task, records in self.records.items():
            name = "predictions.json" if len(self.records) == 1 else f"predictions-{task}.json"
            lines = ",\n".join(json.dumps(finite(record), ensure_ascii=False) for record in records)
            write_text(folder / name, f"[\n{lines}\n]\n")
