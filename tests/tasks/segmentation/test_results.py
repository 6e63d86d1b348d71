"""A segmentation says, draws and writes what its labels are."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retinue.datasets.pictures import read_indices
from retinue.datasets.targets import IGNORE, ClassMap
from retinue.tasks.segmentation.palette import VOID, colours_of
from retinue.tasks.segmentation.results import Segmentation, encode_labels, say_shares, shares_of

CLASSES = ClassMap(("background", "road", "sky", "building", "tree"), (0, 7, 23, 11, 21))


def some() -> Segmentation:
    """45 % road, 30 % background, 20 % building, 5 % tree."""
    labels = np.repeat(np.array([1, 0, 3, 4], np.uint8), [9, 6, 4, 1]).reshape(4, 5)
    return Segmentation("a.jpg", labels, CLASSES)


def test_the_largest_classes_are_said_first() -> None:
    assert str(some()) == "road 45 %, background 30 %, building 20 %, 1 more"
    assert str(Segmentation("a", np.full((2, 3), 2, np.uint8), CLASSES)) == "sky 100 %"
    assert say_shares({}) == "no pixels"


def test_json_has_the_shares_by_name_and_the_numbers_of_the_mask() -> None:
    value = json.loads(json.dumps(some().to_json()))
    assert value == {
        "id": "a.jpg",
        "size": [4, 5],
        "shares": {"road": 0.45, "background": 0.3, "building": 0.2, "tree": 0.05},
        "indices": {"road": 1, "background": 0, "building": 3, "tree": 4},
    }
    assert list(value["shares"]) == ["road", "background", "building", "tree"]
    assert some().size == (4, 5)


def test_ignored_pixels_are_nobody_s_share() -> None:
    assert shares_of(np.array([[0, IGNORE]], np.uint8), CLASSES) == {"background": 0.5}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 40), st.integers(1, 255))
def test_the_mask_file_holds_the_labels_exactly(
    tmp_path_factory: pytest.TempPathFactory, seed: int, height: int, width: int, count: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, count, (height, width)).astype(np.uint8)
    classes = ClassMap(tuple(f"class {i}" for i in range(count)))
    ((ending, data),) = Segmentation("a", labels, classes).files(labels).items()
    path = tmp_path_factory.mktemp("masks") / f"a{ending}"
    path.write_bytes(data)
    assert path.name == "a-labels.png" and (read_indices(path) == labels).all()
    with Image.open(path) as image:
        assert image.mode == "P" and (np.asarray(image.convert("RGB")) == colours_of(classes)[labels]).all()


def test_void_is_written_as_255_in_grey(tmp_path: Path) -> None:
    labels = np.array([[0, 4, IGNORE]], np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(encode_labels(labels, CLASSES))
    assert (read_indices(path) == labels).all()
    assert np.asarray(Image.open(path).convert("RGB"))[0, 2].tolist() == list(VOID)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros((2, 3), np.int64), r"a: labels \(2, 3\) int64"),
        (np.zeros((1, 2, 3), np.uint8), r"a: labels \(1, 2, 3\) uint8"),
        (np.full((2, 3), 5, np.uint8), "a: label 5 of 5 classes"),
        (np.full((2, 3), IGNORE, np.uint8), "a: label 255 of 5 classes"),
    ],
)
def test_labels_that_are_none_are_refused(labels: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Segmentation("a", labels, CLASSES)


def test_it_is_drawn_on_a_copy() -> None:
    picture = np.full((4, 5, 3), 200, np.uint8)
    drawn = some().draw(picture)
    assert drawn.shape[0] == 4 and drawn.shape[1] > 5 and (picture == 200).all()
    with pytest.raises(ValueError, match="labels of"):
        some().draw(np.zeros((5, 4, 3), np.uint8))
