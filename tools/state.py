"""What a run needs to go on as if it had never stopped: written whole or not at all, the one before it kept."""

import os
from pathlib import Path
from typing import Any

import torch

from retinue.datasets.targets import DataError
from retinue.tasks.model_file import write_atomically

CURRENT, PREVIOUS = "state.pt", "previous.pt"


class StateError(RuntimeError):
    """A state could not be written: what is on the disk is the one before it, whole."""


def write(folder: Path, state: dict[str, Any]) -> None:
    """Write the state (tensors and plain values) beside the one before it.

    Raises StateError where the disk is full: the state before is then still whole and current.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*.part"):
        left.unlink()  # of a process that was killed while it wrote
    current, previous = folder / CURRENT, folder / PREVIOUS
    following = folder / "next.pt"
    try:
        write_atomically(following, lambda file: torch.save(state, file))
    except (OSError, RuntimeError) as error:  # torch reports a short write as RuntimeError
        raise StateError(
            f"{following}: could not write the state ({error}); the state before it is whole: make room on the disk, "
            f"then go on with resume={folder.parent}"
        ) from error
    if current.exists():
        os.replace(current, previous)
    os.replace(following, current)


def read(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole, or None if none was ever written.

    Only tensors and plain values are read (`weights_only=True`). Raises DataError where there are files but all
    are damaged.
    """
    damaged = []
    for name in ("next.pt", CURRENT, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            damaged.append(f"{path}: {type(error).__name__} {str(error).splitlines()[:1]}")
    if damaged:
        raise DataError(f"no whole state is left: {'; '.join(damaged)}; start a new run with model=")
    return None
