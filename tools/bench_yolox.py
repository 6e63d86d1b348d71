"""`retinue bench yolox weights=yolox_nano.onnx`: YOLOX-nano in plain torch against onnxruntime, the same weights.

Both go from a picture's file to the picture with its boxes drawn, one picture at a time, and draw with the same code;
theirs as in a short script: OpenCV reads and resizes, numpy decodes, OpenCV suppresses. It is left out where
onnxruntime is not installed.
"""

import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from retinue.datasets.pictures import read_picture
from retinue.datasets.plain import find_pictures
from retinue.datasets.scenes import Scenes
from retinue.tasks.detection.results import Detections
from retinue.tasks.torchvision_weights import coco_classes
from retinue.tools.bench_detection import PRECISIONS, timed
from retinue.tools.drawings import write_picture
from retinue.tools.options import Bench
from retinue.tools.predictor import Predictor
from retinue.tools.progress import Log
from retinue.tools.take_turns import ratio, take_turns

NAME, SIDE, STRIDES = "yolox_nano", 416, (8, 16, 32)
LEAST, NMS_IOU, SHOWN = 0.01, 0.65, 0.25
"""Least score and suppression of both, and the least score that is drawn."""


class Rival:
    """An exported YOLOX run by onnxruntime; what it gives is decoded here."""

    def __init__(self, file: str, threads: int) -> None:
        import onnxruntime  # an extra, for this comparison alone

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session: Any = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.classes = coco_classes()
        grids = [np.mgrid[: SIDE // s, : SIDE // s][::-1].reshape(2, -1).T * s for s in STRIDES]
        self.corners = np.concatenate(grids).astype(np.float32)
        self.strides = np.repeat(STRIDES, [len(grid) for grid in grids])[:, None].astype(np.float32)

    def __call__(self, path: Path) -> np.ndarray:
        """The picture of a file, RGB, with its boxes."""
        picture: Any = cv2.imread(str(path))
        return self.detect(picture, path.name).above(SHOWN).draw(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))

    def detect(self, picture: np.ndarray, id: str) -> Detections:
        """The objects of a picture (h, w, 3) uint8 BGR."""
        height, width = picture.shape[:2]
        scale = SIDE / max(height, width)
        small = cv2.resize(picture, (int(width * scale), int(height * scale)))
        canvas = np.full((SIDE, SIDE, 3), 114, np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        batch = np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], dtype=np.float32)
        raw = self.session.run(None, {self.input: batch})[0][0]
        labels = raw[:, 5:].argmax(1)
        scores = raw[:, 4] * raw[np.arange(len(raw)), labels + 5]
        kept = np.flatnonzero(scores > LEAST)
        raw, labels, scores = raw[kept], labels[kept], scores[kept]
        centre = raw[:, :2] * self.strides[kept] + self.corners[kept]
        sides = np.exp(raw[:, 2:4]) * self.strides[kept]
        boxes = np.concatenate([centre - sides / 2, sides], 1) / scale
        best = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), labels.tolist(), LEAST, NMS_IOU)
        chosen = np.array(best, int)[:100]
        corners = np.concatenate([boxes[chosen, :2], boxes[chosen, :2] + boxes[chosen, 2:]], 1)
        corners = corners.clip(0, [width, height, width, height]).astype(np.float32)
        return Detections(id, corners, scores[chosen], labels[chosen], self.classes, (height, width))


def draw_ours(predictor: Predictor, path: Path) -> np.ndarray:
    """The picture of a file, RGB, with its boxes."""
    picture = read_picture(path).image
    (results,) = predictor([picture], [path.name])
    return results["yolox"].above(SHOWN).draw(picture)


def each(call: Callable[[Path], np.ndarray], paths: list[Path]) -> None:
    """All pictures, one after the other."""
    for path in paths:
        call(path)


def bench_yolox(options: Bench) -> Iterator[dict[str, float]]:
    """How many times as fast as onnxruntime in fp32: ours fused, in fp32 and in bf16."""
    if importlib.util.find_spec("onnxruntime") is None or not options.weights:
        log = Log(sys.stderr if options.json == "-" else None)
        log("yolox is left out: it needs weights=yolox_nano.onnx, and onnxruntime (pip install onnxruntime)")
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            for i, sample in enumerate(Scenes(16, (480, 640))):
                write_picture(Path(folder) / f"{i}.jpg", sample.image)
        paths = find_pictures([options.data or folder])[:16]
        calls: dict[str, Callable[[Path], np.ndarray]] = {
            "onnxruntime": Rival(options.weights, torch.get_num_threads())
        }
        for precision in PRECISIONS:
            predictor = Predictor.open(NAME, options.weights, "cpu", precision)
            calls[precision] = partial(draw_ours, predictor)
        rivals: dict[str, Callable[[], float]] = {
            name: partial(timed, partial(each, call, paths)) for name, call in calls.items()
        }
        times = take_turns(rivals, options.seconds)
    yield {"yolox_nano/onnxruntime_seconds": statistics.median(times["onnxruntime"]) / len(paths)} | {
        f"yolox_nano/{precision}_over_onnxruntime_fp32": ratio(times, "onnxruntime", precision)
        for precision in PRECISIONS
    }
