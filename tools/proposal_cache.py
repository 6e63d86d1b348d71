"""Selective search of pictures, computed once for each content: its boxes are kept in a folder.

An entry is a file named by what its boxes hang on: the pixels, the search's mode and side, its version. It holds the
SHA-256 of what follows, and boxes as float32. An entry that is damaged is computed anew.
"""

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from retinue.datasets.targets import DataError, Others, Sample
from retinue.tasks.detection.selective_search import SIDE, VERSION, Mode, selective_search
from retinue.tasks.model_file import write_atomically


def default_folder() -> Path:
    """`retinue/selective_search` in the user's folder of caches: $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "retinue" / "selective_search"


class CachedSearch:
    """A transform that gives a sample its proposals, (r, 4) float32, at most `most`, and takes away its picture, which
    nothing reads any more.

    side: as `selective_search` has it, its default where None. Raises DataError where the folder cannot be written.
    """

    def __init__(
        self, mode: Mode = "fast", side: int | None = None, folder: str | Path | None = None, most: int = 2000
    ) -> None:
        self.mode, self.side, self.most = mode, side or SIDE, most
        self.folder = Path(folder).expanduser() if folder else default_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refusal(error) from None

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample of one pixel, with `inputs["proposals"]` in the pixels of the picture that it had."""
        boxes = self.boxes(sample.image)[: self.most]
        return sample.with_(image=sample.image[:1, :1], inputs={"proposals": boxes})

    def boxes(self, image: np.ndarray) -> np.ndarray:
        """All proposals (r, 4) of a picture (h, w, 3) uint8, from the folder where it has them."""
        path = self.path(image)
        boxes = read_entry(path)
        if boxes is None:
            boxes = selective_search(image, self.mode, side=self.side)
            try:
                write_entry(path, boxes)
            except OSError as error:
                raise self._refusal(error) from None
        return boxes

    def path(self, image: np.ndarray) -> Path:
        """The entry of a picture."""
        digest = hashlib.sha256(f"{VERSION} {self.mode} {self.side} {image.shape} {image.dtype}".encode())
        digest.update(np.ascontiguousarray(image).data)
        return self.folder / digest.hexdigest()

    def _refusal(self, error: OSError) -> DataError:
        return DataError(
            f"{self.folder}: proposals cannot be kept there ({error}); cache=FOLDER names another place"
        )


def read_entry(path: Path) -> np.ndarray | None:
    """The boxes (r, 4) of an entry; None where there is none, or a damaged one."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest or len(data) % 16:
        return None
    return np.frombuffer(data, "<f4").reshape(-1, 4).copy()


def write_entry(path: Path, boxes: np.ndarray) -> None:
    """Write an entry whole or not at all. Raises OSError."""
    data = boxes.astype("<f4").tobytes()

    def write(file: BinaryIO) -> None:
        file.write(hashlib.sha256(data).digest())
        file.write(data)

    write_atomically(path, write)
