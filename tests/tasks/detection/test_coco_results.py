"""Detections as other ecosystems have them: COCO's records, torchvision's dicts there and back, supervision."""

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.coco_results import (
    coco_results,
    from_torchvision,
    image_id,
    to_supervision,
    to_torchvision,
)
from retinue.tasks.detection.masks import Masks, encode
from retinue.tasks.detection.results import Detections

HOLES = ClassMap(("person", "dog", "kite"), (1, 18, 38))
SIZE = (37, 53)


def some(rng: np.random.Generator, classes: ClassMap, n: int, masks: bool, keypoints: bool) -> Detections:
    corners = np.sort(rng.uniform(0, 1, (n, 2, 2)) * (SIZE[1], SIZE[0]), 1).astype(np.float32).reshape(n, 4)
    return Detections(
        "7",
        corners,
        -np.sort(-rng.integers(0, 9, n).astype(np.float32) / np.float32(7)),  # with equal scores
        rng.integers(0, len(classes), n),
        classes,
        SIZE,
        Masks(rng.random((n, 7, 7), dtype=np.float32), corners, SIZE) if masks else None,
        rng.random((n, 4, 3), dtype=np.float32) if keypoints else None,
        rng.standard_normal((n, 4)).astype(np.float32) if keypoints else None,
    )


def same(one: Detections, other: Detections) -> None:
    for name in ("boxes", "scores", "labels", "keypoints", "keypoint_scores"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        assert a is None or (a.dtype == b.dtype and a.tobytes() == b.tobytes()), name
    assert one.size == other.size and one.classes == other.classes
    assert (one.masks.rles() if one.masks else None) == (other.masks.rles() if other.masks else None)


def test_a_record_by_hand() -> None:
    one = Detections(
        "x", np.array([[10, 20, 14, 28]], np.float32), np.array([0.5], np.float32), np.array([1]), HOLES, SIZE,
        keypoints=np.array([[[1, 2, 1], [3, 4, 1]]], np.float32),
    )  # fmt: skip
    assert coco_results(one, 9) == [
        {
            "image_id": 9,
            "category_id": 18,
            "bbox": [10, 20, 4, 8],
            "score": 0.5,
            "keypoints": [1, 2, 1, 3, 4, 1],
        }
    ]
    assert coco_results(Detections.none("x", HOLES, SIZE), 9) == []


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("val2017/000000000139.jpg", 139),
        ("a/b/cat.png", "cat.png"),
        ("12a.jpg", "12a.jpg"),
        ("²/³.jpg", "³.jpg"),
    ],
)
def test_the_file_name_is_the_image_id(path: str, id: int | str) -> None:
    assert image_id(path) == id


@pytest.mark.parametrize("labels", ["ids", "from 0", "from 1"])
def test_torchvision_there_and_back(labels: Any) -> None:
    before = some(np.random.default_rng(0), HOLES, 5, True, True)
    theirs = to_torchvision(before, labels=labels)
    assert theirs["masks"].shape == (5, 1, *SIZE) and theirs["masks"].dtype == torch.float32
    first = {"ids": HOLES.ids[before.labels[0]], "from 0": before.labels[0], "from 1": before.labels[0] + 1}
    assert int(theirs["labels"][0]) == first[labels]
    same(from_torchvision(theirs, "7", HOLES, SIZE, labels=labels), before)
    empty = Detections.none("7", HOLES, SIZE)
    same(from_torchvision(to_torchvision(empty, labels=labels), "7", HOLES, SIZE, labels=labels), empty)


def test_torchvisions_labels_outside_the_classes_are_refused() -> None:
    theirs = to_torchvision(some(np.random.default_rng(0), HOLES, 3, False, False), labels="ids")
    with pytest.raises(DataError):
        from_torchvision(theirs, "7", HOLES, SIZE, labels="from 1")
    with pytest.raises(DataError, match="unknown class id"):
        from_torchvision({**theirs, "labels": torch.tensor([1, 2, 18])}, "7", HOLES, SIZE, labels="ids")


def test_supervision_gets_names_and_painted_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = types.ModuleType("supervision")
    stub.Detections = types.SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", stub)
    before = some(np.random.default_rng(0), HOLES, 3, True, False)
    made = to_supervision(before)
    assert made.data["class_name"].tolist() == before.names and (made.xyxy == before.boxes).all()
    assert before.masks and [encode(mask) for mask in made.mask] == before.masks.rles()
    assert to_supervision(Detections.none("x", HOLES, SIZE)).mask is None


def test_without_supervision_the_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(DataError, match="pip install supervision"):
        to_supervision(Detections.none("x", HOLES, SIZE))
