"""Small pictures, a small saved model, and a world without a network."""

import json
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


@pytest.fixture(scope="session")
def paint_boxes() -> Callable[..., Path]:
    """paint_boxes(root, split=[(height, width, boxes), ...], ...): a data set in COCO's layout, boxes x1 y1 x2 y2.

    Every box is a sphere, painted white on grey noise; the class "thing" has none.
    """

    def data(root: Path, **splits: list[tuple[int, int, list[tuple[int, int, int, int]]]]) -> Path:
        for split, pictures in splits.items():
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for i, (height, width, boxes) in enumerate(pictures):
                picture = np.random.default_rng(i).integers(60, 120, (height, width, 3), np.uint8)
                for x1, y1, x2, y2 in boxes:
                    picture[y1:y2, x1:x2] = 250
                    box = [x1, y1, x2 - x1, y2 - y1]
                    annotations.append(
                        {"id": len(annotations) + 1, "image_id": i, "category_id": 3, "bbox": box, "iscrowd": 0,
                         "area": box[2] * box[3]}
                    )  # fmt: skip
                images.append({"id": i, "file_name": f"{i:03d}.png", "height": height, "width": width})
                (root / split).mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(root / split / f"{i:03d}.png"), picture)
            categories = [{"id": 3, "name": "sphere"}, {"id": 7, "name": "thing"}]
            value = {"images": images, "annotations": annotations, "categories": categories}
            (root / "annotations").mkdir(exist_ok=True)
            (root / f"annotations/instances_{split}.json").write_text(json.dumps(value))
        return root

    return data


@pytest.fixture(scope="session")
def paint_masks() -> Callable[..., Path]:
    """paint_masks(root, split=[(height, width), ...], ...): pictures beside masks of ground 0, disc 1 and void 11.

    Each picture is blue noise above a red disc, whose rim is void; `classes.txt` names the values.
    """

    def data(root: Path, **splits: list[tuple[int, int]]) -> Path:
        for split, sizes in splits.items():
            for i, (height, width) in enumerate(sizes):
                rng = np.random.default_rng(i)
                y, x = np.mgrid[:height, :width] + 0.5
                away = np.hypot(y - height * rng.uniform(0.3, 0.7), x - width * rng.uniform(0.3, 0.7))
                mask = np.where(away < 11, 1, np.where(away < 13, 11, 0)).astype(np.uint8)
                picture = rng.integers(-25, 26, (height, width, 3)) + np.where(
                    mask[..., None] == 1, COLOURS["red"], COLOURS["blue"]
                )
                for folder, image in ((split, picture.clip(0, 255)[..., ::-1]), (f"{split}annot", mask)):
                    (root / folder).mkdir(parents=True, exist_ok=True)
                    assert cv2.imwrite(str(root / folder / f"{i:03d}.png"), image.astype(np.uint8))
        (root / "classes.txt").write_text("0 ground\n1 disc\n11 void\n")
        return root

    return data
