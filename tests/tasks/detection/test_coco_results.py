"""There and back again: results -> json -> the same results, and the other ecosystems' forms."""

import json
import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.coco_results import (
    coco_results,
    from_coco_results,
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


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans(), st.booleans(),
    st.sampled_from([(0, 1, 2), (1, 2, 3), (1, 18, 38), ("a", "b", "c")]),
)  # fmt: skip
def test_results_to_json_and_back_are_equal(
    seed: int, n: int, masks: bool, keypoints: bool, ids: tuple[int | str, ...]
) -> None:
    classes = ClassMap(("person", "dog", "kite"), ids)
    before = some(np.random.default_rng(seed), classes, n, masks, keypoints)
    text = json.dumps(coco_results(before, 7), allow_nan=False)
    after = from_coco_results(json.loads(text), classes, {7: SIZE, 8: (4, 4)})
    same(after[7], before)
    same(after[8], Detections.none("8", classes, (4, 4)))
    assert json.dumps(coco_results(after[7], 7)) == text


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


def record(**changes: Any) -> dict[str, Any]:
    return {"image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "score": 0.5, **changes}


def test_the_surest_is_first_and_equal_ones_keep_their_order() -> None:
    records = [record(score=s, bbox=[i, 0, 1, 1]) for i, s in enumerate((0.25, 0.5, 0.25, 1))]
    found = from_coco_results(records, HOLES, {7: SIZE}, {7: "seven.jpg"})[7]
    assert found.boxes[:, 0].tolist() == [3, 1, 0, 2] and found.id == "seven.jpg"


def test_a_record_without_a_box_gets_the_one_around_its_mask_or_keypoints() -> None:
    mask = np.zeros(SIZE, bool)
    mask[4:9, 10:12] = True
    masked = record(segmentation=encode(mask))
    pointed = record(keypoints=[5, 6, 1, 9, 2, 1])
    for each, box in ((masked, [10, 4, 12, 9]), (pointed, [5, 2, 9, 6])):
        del each["bbox"]
        assert from_coco_results([each], HOLES, {7: SIZE})[7].boxes.tolist() == [box]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (3, "no object"),
        (None, "no object"),
        ([], "no object"),
        ({"image_id": 7}, "no 'category_id'"),
        (record(image_id=8), "image_id 8 is none"),
        (record(image_id=[7]), "unhashable"),
        (record(image_id=True), "image_id True"),
        (record(category_id=0), r"category_id 0 is none of \[1, 18, 38\]"),
        (record(category_id=True), "category_id True"),
        (record(category_id={}), "unhashable"),
        (record(score=float("nan")), "score"),
        (record(score=float("inf")), "score"),
        (record(score="0.5"), "score"),
        (record(score=None), "score"),
        (record(bbox=[1, 2, 3]), "bbox"),
        (record(bbox=[1, 2, -3, 4]), "bbox"),
        (record(bbox=[1, 2, 1e308, 4]), "bbox"),
        (record(bbox=[1, 2, 10**400, 4]), "bbox"),
        (record(bbox="1 2 3 4"), "bbox"),
        (record(bbox=None), "bbox"),
        (record(segmentation=[[1, 2, 3]]), "segmentation"),
        (record(segmentation={"size": [37, 53], "counts": "PPPPPPPPPPPP"}), "segmentation"),
        (record(keypoints=[1, 2]), "a third number"),
        ({"image_id": 7, "category_id": 1, "score": 0.5, "keypoints": []}, "a third number"),
        (record(keypoints=[1, 2, 1], keypoint_scores=[1, 2]), "not one a keypoint"),
        (record(keypoints=[1, 2, None]), "keypoints"),
    ],
)
def test_what_is_no_result_is_named(wrong: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        from_coco_results([record(), wrong], HOLES, {7: SIZE}, source="theirs.json")
    assert "theirs.json: record 1" in str(caught.value)


def test_records_of_one_picture_are_of_one_kind() -> None:
    mask = encode(np.ones(SIZE, bool))
    with pytest.raises(DataError, match="rle differ in number"):
        from_coco_results([record(), record(segmentation=mask)], HOLES, {7: SIZE})
    with pytest.raises(DataError, match="keypoints differ in number"):
        from_coco_results([record(keypoints=[1, 1, 1]), record(keypoints=[1] * 6)], HOLES, {7: SIZE})


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
