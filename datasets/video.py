"""Videos: the frames of a file one by one, each with its number and its time."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from retinue.datasets.pictures import MAX_PIXELS
from retinue.datasets.targets import DataError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
"""FFmpeg would write to standard error by itself; OpenCV reads this when it first opens a video."""

SUFFIXES = frozenset({".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm"})
FRAMES_A_SECOND = 25.0
"""For files that do not say."""


class Frame(NamedTuple):
    """A frame (h, w, 3) uint8 RGB, upright, its number in the file from 0, and its time in seconds."""

    number: int
    time: float
    picture: np.ndarray


@dataclass(frozen=True)
class Video:
    """A video file that can be read. rate: frames a second. count: of frames as the file states it; 0 is unknown."""

    path: Path
    rate: float
    count: int

    @classmethod
    def open(cls, path: str | Path) -> "Video":
        """DataError for what is missing, broken, no video, or too large to be decoded safely."""
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file; name a video")
        capture = _capture(path)
        try:
            rate, count, width, height = (
                capture.get(key)
                for key in (
                    cv2.CAP_PROP_FPS,
                    cv2.CAP_PROP_FRAME_COUNT,
                    cv2.CAP_PROP_FRAME_WIDTH,
                    cv2.CAP_PROP_FRAME_HEIGHT,
                )
            )
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"{path}: {width:.0f}x{height:.0f} pixels a frame, the limit is {MAX_PIXELS:,}; make it smaller"
                )
            if not capture.grab():
                raise DataError(
                    f"{path}: no frame of this video can be read; save it again, as mp4 for example"
                )
        finally:
            capture.release()
        rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else FRAMES_A_SECOND
        return cls(path, rate, int(count) if 0 < count < 1e9 else 0)

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Each `every`-th frame, from the first one, up to the end or to where the file can no longer be read."""
        capture, index = _capture(self.path), 0
        try:
            while capture.grab():
                if index % every == 0:
                    time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                    time = time if math.isfinite(time) and (time > 0 or index == 0) else index / self.rate
                    read, picture = capture.retrieve()
                    if not read:
                        return
                    yield Frame(index, time, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
                index += 1
        finally:
            capture.release()


class VideoWriter:
    """Writes pictures (h, w, 3) uint8 RGB, all of the first one's size, to an mp4 file, until it is closed.

    The codec is MPEG-4 part 2, which every OpenCV can write; a last odd row or column is left out.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.writer: cv2.VideoWriter | None = None
        self.size = (0, 0)

    def write(self, picture: np.ndarray) -> None:
        """One more frame; DataError where the file cannot be written."""
        if self.writer is None:
            self.size = (picture.shape[1], picture.shape[0])
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self.writer = cv2.VideoWriter(str(self.path.absolute()), code, self.rate, self.size)
            if not self.writer.isOpened():
                raise DataError(
                    f"{self.path}: this video cannot be written; is the folder writable, with room?"
                )
        if (picture.shape[1], picture.shape[0]) != self.size:  # a stream may change its size midway
            picture = cv2.resize(picture, self.size, interpolation=cv2.INTER_AREA)
        self.writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """End the file."""
        if self.writer is not None:
            self.writer.release()


def is_video(path: str | Path) -> bool:
    """By its suffix."""
    return Path(path).suffix.lower() in SUFFIXES


def _capture(path: Path) -> cv2.VideoCapture:
    """The open file; DataError where FFmpeg cannot read it. Only files are opened: no patterns, no addresses."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    finally:
        cv2.utils.logging.setLogLevel(before)
    if not capture.isOpened():
        raise DataError(f"{path}: no video that can be read; is it whole? save it again, as mp4 for example")
    return capture
