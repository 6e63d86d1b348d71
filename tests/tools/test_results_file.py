"""Anybody's COCO results: what was written comes back, what is wrong is named by its entry."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.detection.coco_results import coco_results
from retinue.tasks.detection.masks import Masks, encode
from retinue.tasks.detection.results import Detections
from retinue.tools.results_file import Results, read_results

HOLES = ClassMap(("person", "dog", "kite"), (1, 18, 38))
SIZE = (37, 53)
IDS = [7, 8, 11]


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """read(records or text) -> Results, of pictures 7, 8 and 11 in seven.jpg, 8.jpg and it's.jpg."""

    def read(records: Any, classes: ClassMap = HOLES) -> Results:
        file = tmp_path / "theirs.json"
        file.write_text(records if isinstance(records, str) else json.dumps(records))
        names = ["in/seven.jpg", "in/8.jpg", "in/it's.jpg"]
        return read_results(file, IDS, names, classes, np.array([SIZE, (4, 4), (0, 0)]))

    return read


def record(*keys: str, **changes: Any) -> dict[str, Any]:
    """One of picture 7, with a box, or with the keys given."""
    mask = np.zeros(SIZE, bool)
    mask[4:9, 10:12] = True
    values = {"bbox": [1, 2, 3, 4], "segmentation": encode(mask), "keypoints": [5, 6, 1, 9, 2, 1]}
    entry = {"image_id": 7, "category_id": 18, "score": 0.5}
    return entry | {key: values[key] for key in keys or ("bbox",)} | changes


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 6),
    masks=st.booleans(),
    keypoints=st.booleans(),
    ids=st.sampled_from([(0, 1, 2), (1, 2, 3), (1, 18, 38), ("a", "b", "c")]),
)
def test_our_own_results_come_back_equal(
    seed: int, n: int, masks: bool, keypoints: bool, ids: tuple[int | str, ...], read: Any
) -> None:
    rng, classes = np.random.default_rng(seed), ClassMap(("person", "dog", "kite"), ids)
    corners = np.sort(rng.uniform(0, 1, (n, 2, 2)) * (SIZE[1], SIZE[0]), 1).astype(np.float32).reshape(n, 4)
    before = Detections(
        "7",
        corners,
        -np.sort(-rng.integers(0, 9, n).astype(np.float32) / np.float32(7)),  # with equal scores
        rng.integers(0, len(classes), n),
        classes,
        SIZE,
        Masks(rng.random((n, 7, 7), dtype=np.float32), corners, SIZE) if masks else None,
        rng.random((n, 4, 3), dtype=np.float32) if keypoints else None,
    )
    results = read(coco_results(before, 7), classes)
    found = results.found
    assert results.kinds == ["box", *["mask"] * masks, *["keypoints"] * keypoints]
    assert (found.pictures == 0).all() and (found.labels == before.labels).all()
    x, y, w, h = found.xywh.T
    assert (np.stack([x, y, x + w, y + h], 1).astype(np.float32) == before.boxes).all()
    assert (found.scores == before.scores).all()
    assert found.masks == (before.masks.rles() if before.masks else None)
    assert (found.keypoints is None) == (not keypoints)
    assert found.keypoints is None or (found.keypoints == before.keypoints).all()


def test_a_record_without_a_box_gets_the_one_around_its_mask_or_keypoints(read: Any) -> None:
    assert read([record("segmentation")]).found.xywh.tolist() == [[10, 4, 2, 5]]
    assert read([record("keypoints")]).found.xywh.tolist() == [[5, 2, 4, 4]]
    assert len(read([]).found) == 0


def test_pictures_are_known_by_their_ids_as_any_type_and_by_their_files_names(read: Any) -> None:
    ids = [7, "7", 7.0, "seven.jpg", "seven", "in/seven.jpg", 8, "8", "it's.jpg"]
    found = read([record(image_id=id) for id in ids]).found
    assert found.pictures.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 2]
    found = read([record(category_id=id) for id in (18, "18", 18.0)]).found
    assert found.labels.tolist() == [1, 1, 1]


def test_a_size_that_is_not_known_is_read_from_the_code(read: Any) -> None:
    code = encode(np.ones((5, 6), bool))
    assert read([record("segmentation", image_id=11, segmentation=code)]).sizes.tolist()[2] == [5, 6]
    polygon = [[0, 0, 3, 0, 3, 3]]
    with pytest.raises(DataError, match="entry 0: polygons of a picture whose height and width are unknown"):
        read([record("segmentation", image_id=11, segmentation=polygon)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_id": 999},
            r"image_id 999 is not in the data; 1 of the 2 ids in the file are among the 3 of",
        ),
        ({"image_id": True}, "image_id True is not"),
        ({"image_id": [7]}, r"image_id \[7\] is not"),
        ({"image_id": None}, "image_id None is not"),
        ({"category_id": 5}, "category_id 5 is not in the data; known are 1, 18, 38: write those"),
        ({"category_id": True}, "category_id True is not"),
        ({"category_id": {}}, r"category_id \{\} is not"),
        ({"score": float("nan")}, "score nan is not a finite number"),
        ({"score": float("inf")}, "score inf is not a finite number"),
        ({"score": "0.5"}, "score '0.5' is not a finite number"),
        ({"score": None}, "score None is not a finite number"),
        ({"score": True}, "score True is not a finite number"),
        ({"score": 10**400}, "is not a finite number"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\] is not four finite numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "is not four finite numbers"),
        ({"bbox": [1, 2, 10**400, 4]}, "is not four finite numbers"),
        ({"bbox": "1 2 3 4"}, "is not four finite numbers"),
        ({"bbox": None}, "has no bbox, the entries before it have"),
        ({"segmentation": {"size": [37, 53], "counts": "zz"}}, "does not fill 37 x 53 pixels"),
        ({"segmentation": {"size": [37, 53], "counts": "PPPPPPPPPPPP"}}, "does not fill 37 x 53 pixels"),
        ({"segmentation": {"size": [53, 37], "counts": "0"}}, r"size \[53, 37\] in a picture of \[37, 53\]"),
        ({"segmentation": [[1, 2, 3]]}, "polygon"),
        ({"segmentation": "x"}, "neither polygons nor"),
        ({"keypoints": [1, 2]}, "are not finite x, y, visibility for each point"),
        ({"keypoints": [1, 2, None]}, "are not finite x, y, visibility for each point"),
        ({"keypoints": []}, "has no keypoints, the entries before it have"),
        ({"keypoints": [1, 2, 1]}, "1 keypoints, the entries before it have 2"),
    ],
)
def test_a_wrong_entry_is_named(change: dict[str, Any], message: str, read: Any) -> None:
    whole = ("bbox", "segmentation", "keypoints")
    with pytest.raises(DataError, match=message) as error:
        read([record(*whole), record(*whole, **change)])
    assert "theirs.json: entry 1: " in str(error.value)


def test_category_ids_that_are_indices_are_told(read: Any) -> None:
    for first in (0, 1):
        wanted = f"like class indices from {first}; write the data's own: 1, 18, 38"
        with pytest.raises(DataError, match=wanted):
            read([record(category_id=i + first) for i in range(3)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "nested too deeply|cannot be read"),
        ('{"annotations": []}', r"is an object with \['annotations'\], COCO results are a list"),
        ("3", "is int, COCO results are a list"),
        ("[3]", "entry 0 is 3, not an object"),
        ("[null]", "entry 0 is None, not an object"),
        ('[{"image_id": 7, "category_id": 1, "score": 1}]', "entry 0 has none of"),
        ('[{"category_id": 1, "score": 1, "bbox": [1, 2, 3, 4]}]', "entry 0 has no 'image_id'"),
        ('[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]}]', "entry 0 has no 'score'"),
    ],
)
def test_a_file_that_holds_no_results_is_refused(text: str, message: str, read: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read(text)
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read"):
        read_results(tmp_path / "nowhere.json", [], [], HOLES, np.zeros((0, 2), np.int64))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    key=st.sampled_from(["image_id", "category_id", "score", "bbox", "segmentation", "keypoints"]),
    value=JSON,
    place=st.integers(0, 2),
)
def test_whatever_stands_in_an_entry_it_is_read_or_named(key: str, value: Any, place: int, read: Any) -> None:
    records = [record("bbox", "segmentation", "keypoints") for _ in range(3)]
    records[place][key] = value
    try:
        found = read(records).found
    except DataError as error:
        named, sound = str(error), True
    else:
        named, sound = "entry", bool(np.isfinite(found.scores).all() and np.isfinite(found.xywh).all())
    assert "entry" in named and sound
