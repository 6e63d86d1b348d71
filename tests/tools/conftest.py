"""Small pictures, a small saved model, and a world without a network."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from retinue.backbones import build
from retinue.datasets.targets import ClassMap
from retinue.tasks import model_file
from retinue.tasks.classification.classification import Classifier
from retinue.tasks.task import Model

COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}


@pytest.fixture(scope="session")
def paint() -> Callable[..., Path]:
    """paint(path, colour, seed): a file of 28 x 36 pixels of about one colour, RGB."""

    def paint(path: Path, colour: str = "red", seed: int = 0, size: tuple[int, int] = (28, 36)) -> Path:
        noise = np.random.default_rng(seed).integers(-25, 26, (*size, 3))
        picture = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), picture[..., ::-1])
        return path

    return paint


@pytest.fixture(scope="session")
def paint_folder(paint: Callable[..., Path]) -> Callable[..., Path]:
    """paint_folder(root, split={colour: pictures}, ...): an image folder."""

    def folder(root: Path, **splits: dict[str, int]) -> Path:
        for k, (split, counts) in enumerate(splits.items()):
            for colour, count in counts.items():
                for i in range(count):
                    paint(root / split / colour / f"{i}.png", colour, seed=100 * k + i)
        return root

    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Model]:
    """tiny(*names, seed=0): a LeNet-5 for these classes, its weights random by the seed."""

    def tiny(*names: str, seed: int = 0) -> Model:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            backbone = build("lenet5")
            task = Classifier(backbone, ClassMap(names or ("blue", "red"), names or ("blue", "red")))
            with torch.no_grad():
                task.top.last.weight.mul_(50)  # so that pictures get different answers
            return Model(backbone, {"classification": task}).eval()

    return tiny


@pytest.fixture
def saved(tiny: Callable[..., Model], tmp_path: Path) -> Path:
    """A saved model of the classes blue and red with random weights, for pictures of 32 pixels."""
    path = tmp_path / "models/colours.safetensors"
    path.parent.mkdir()
    model_file.save(tiny(), path, imgsz=32, batch=4)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sockets and child processes fail, and every attempt is written down."""
    attempts: list[str] = []

    def refuse(what: str) -> Callable[..., Any]:
        def refused(*arguments: Any, **_: Any) -> Any:
            attempts.append(f"{what} {arguments[1:2]}")
            raise OSError("blocked by the test")

        return refused

    monkeypatch.setattr(socket.socket, "connect", refuse("connect"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse("getaddrinfo"))
    monkeypatch.setattr(socket, "create_connection", refuse("create_connection"))
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse("Popen"))
    monkeypatch.setattr("os.system", refuse("system"))
    return attempts
