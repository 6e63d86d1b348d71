"""Results drawn into a folder, under names that are not taken there."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from retinue.tasks.model_file import write_atomically


def draw_results(path: Path, picture: np.ndarray, results: dict[str, Any], folder: Path) -> list[str]:
    """Draw every task's result into the folder; returns the files' names."""
    names = []
    for task, result in results.items():
        names.append(file_name(path, task if len(results) > 1 else "", folder))
        write_picture(folder / names[-1], result.draw(three_channels(picture)))
    return names


def write_files(path: Path, picture: np.ndarray, results: dict[str, Any], folder: Path) -> list[str]:
    """Write what the results of the tasks of a picture have as files into the folder; returns the files' names."""
    names = []
    for task, result in results.items():
        files: dict[str, bytes] = result.files(picture) if hasattr(result, "files") else {}
        for ending, content in files.items():
            names.append(file_name(path, task if len(results) > 1 else "", folder, ending))
            write_file(folder / names[-1], content)
    return names


def file_name(path: Path, task: str, folder: Path, suffix: str | None = None) -> str:
    """A name for what is written of a picture that is not taken in the folder: its own, a number where it is.

    suffix: what it ends in; default is .png for a picture that is one, .jpg for all others.
    """
    stem = f"{path.stem}-{task}" if task else path.stem
    suffix = suffix or (".png" if path.suffix.lower() == ".png" else ".jpg")
    number, name = 1, f"{stem}{suffix}"
    while (folder / name).exists():
        number += 1
        name = f"{stem}-{number}{suffix}"
    return name


def three_channels(picture: np.ndarray) -> np.ndarray:
    """What results are drawn on a copy of: (h, w, 3) uint8, whatever the network reads."""
    if picture.dtype == np.uint16:
        picture = (picture // 257).astype(np.uint8)
    return (
        np.ascontiguousarray(picture[..., :3])
        if picture.shape[2] >= 3
        else picture[..., :1].repeat(3, axis=2)
    )


def write_picture(path: Path, picture: np.ndarray) -> None:
    """A picture (h, w, 3) uint8 RGB to a file, whole or not at all."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix.lower() in (".jpg", ".jpeg") else []
    data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)[1]
    write_file(path, data.tobytes())


def write_file(path: Path, content: bytes) -> None:
    """A file, whole or not at all."""
    write_atomically(path, lambda file: file.write(content))
