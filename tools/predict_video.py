"""Videos through a model: frames in batches, every task's results, drawn into videos again."""

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from retinue.datasets.targets import DataError
from retinue.datasets.video import Frame, Video, VideoWriter
from retinue.tools.drawings import file_name
from retinue.tools.options import Predict
from retinue.tools.predictor import Predicted, Predictor
from retinue.tools.progress import Log, counting


def stream_video(
    predictor: Predictor, video: Video, options: Predict, log: Log
) -> Iterator[tuple[Predicted, np.ndarray]]:
    """The results of each `every`-th frame, with the frame (h, w, 3) uint8 RGB, in order, while progress is shown.

    Raises DataError after the last frame of a file that ends too early.
    """
    frames, last = video.frames(options.every), -1
    with counting(video.path.name, log, -(-video.count // options.every)) as step:
        while batch := list(islice(frames, options.batch)):
            pictures = [_for_network(frame, predictor.model.backbone.in_channels) for frame in batch]
            results = predictor(pictures, [f"{video.path}#{frame.number}" for frame in batch])
            for frame, result in zip(batch, results):
                yield Predicted(video.path, result, frame.number, frame.time), frame.picture
            last = batch[-1].number
            step(len(batch))
    if last + options.every < 0.95 * video.count:  # what a file states of its length may be an estimate
        raise DataError(
            f"{video.path}: nothing can be read after frame {last} of {video.count}; is the file cut?"
        )


def _for_network(frame: Frame, channels: int) -> np.ndarray:
    """The frame with as many channels as the network reads, where that is one."""
    return cv2.cvtColor(frame.picture, cv2.COLOR_RGB2GRAY)[..., None] if channels == 1 else frame.picture


class Film:
    """What is drawn of a video: an mp4 file a task, which takes as long as its source. Says at its end how fast it was.

    names: of the files in the folder. frames: how many there are so far.
    """

    def __init__(self, video: Video, folder: Path, options: Predict, log: Log) -> None:
        self.video, self.folder, self.options, self.log = video, folder, options, log
        self.writers: dict[str, VideoWriter] = {}
        self.names: list[str] = []
        self.frames, self.start = 0, time.monotonic()

    def __enter__(self) -> "Film":
        return self

    def add(self, results: dict[str, Any], picture: np.ndarray) -> None:
        """One more frame, with every task's results by name."""
        for task, result in results.items() if self.options.draw else ():
            if task not in self.writers:
                path, several = self.video.path, len(results) > 1
                name = file_name(path, task if several else "", self.folder, ".mp4")
                self.writers[task] = VideoWriter(self.folder / name, self.video.rate / self.options.every)
                self.names.append(name)
            self.writers[task].write(result.draw(picture))
        self.frames += 1

    def __exit__(self, *_: object) -> None:
        for writer in self.writers.values():
            writer.close()
        rate = self.frames / max(time.monotonic() - self.start, 1e-9)
        if self.frames:
            self.log(f"{self.video.path}: {self.frames} frames, {rate:.1f} frames/s")
