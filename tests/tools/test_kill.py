"""Kill -9 at random moments, half of them inside a save: every resume works, and the end is the same bit for bit."""

import os
import random
import resource
import select
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from retinue.tools import state, train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")


def child(work: Callable[[], object], noise: Path) -> int:
    """Start work in a fork of this process, in one thread; returns its pid. Its output goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        with noise.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            sys.stdout = sys.stderr = file
            work()
            status = 0
    finally:
        os._exit(status)


def settings(project: Path, epochs: int) -> dict[str, Any]:
    return {
        "data": "scenes:6", "backbone": "lenet5", "imgsz": 32, "batch": 3, "epochs": epochs, "workers": 0, "ema": 0.9,
        "mixup": 0.2, "project": str(project), "name": "run", "save_minutes": 0.0,
    }  # fmt: skip


def start_or_go_on(project: Path, epochs: int) -> None:
    torch.set_num_threads(1)
    folder = project / "classification/run"
    if folder.exists():
        train.train(resume=str(folder))
    else:
        train.train("classification", **settings(project, epochs))


def tells_of_saves(pipe: int, project: Path, epochs: int) -> None:
    """As `start_or_go_on`; a byte goes into the pipe before and after each state is forced to the disk."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        os.write(pipe, b"s")
        real(descriptor)
        os.write(pipe, b"s")

    os.fsync = fsync  # type: ignore[assignment]
    start_or_go_on(project, epochs)


def kill_at_random(project: Path, epochs: int, inside_a_save: bool, luck: random.Random) -> bool:
    """One child, killed at a random moment; True if it was still alive then."""
    read, write = os.pipe()
    pid = child(lambda: tells_of_saves(write, project, epochs), project / "noise.txt")
    os.close(write)
    if inside_a_save:
        for _ in range(luck.randint(1, 12)):
            select.select([read], [], [], 60)
            if not os.read(read, 1):  # it has ended
                break
        select.select([], [], [], luck.uniform(0, 0.003))
    else:
        select.select([], [], [], luck.uniform(0.05, 1.0))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(read)
    return os.WIFSIGNALED(status)


def digests(project: Path) -> list[str]:
    names = ("weights/last.safetensors", "weights/best.safetensors", "results.csv")
    return [sha256((project / "classification/run" / name).read_bytes()).hexdigest() for name in names]


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_runs_end_as_if_left_alone(kills: int, tmp_path: Path) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    for project in (alone, killed):
        project.mkdir()
    epochs = 3 * kills
    _, status = os.waitpid(child(lambda: start_or_go_on(alone, epochs), alone / "noise.txt"), 0)
    assert status == 0, (alone / "noise.txt").read_text()[-2000:]
    luck = random.Random(kills)
    died = [kill_at_random(killed, epochs, i % 2 == 0, luck) for i in range(kills)]
    assert sum(died) >= 0.8 * kills, "the run ended before it could be killed often enough"
    _, status = os.waitpid(child(lambda: start_or_go_on(killed, epochs), killed / "noise.txt"), 0)
    assert status == 0, (killed / "noise.txt").read_text()[-2000:]
    assert digests(alone) == digests(killed)


def test_a_disk_that_fills_up_in_the_middle_of_a_save_leaves_the_state_before(tmp_path: Path) -> None:
    state.write(tmp_path, {"weights": torch.arange(1000.0)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(state.StateError, match="make room on the disk"):
            state.write(tmp_path, {"weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = state.read(tmp_path)
    assert kept and torch.equal(kept["weights"], torch.arange(1000.0))
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    state.write(tmp_path, {"weights": torch.zeros(1_000_000)})
