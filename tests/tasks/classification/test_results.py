import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retinue.datasets.targets import ClassMap, Pictures
from retinue.tasks.classification import Classification, draw_bars, draw_batch, draw_predictions

NAMES = ("ants", "bees", "a red-backed sandpiper at the sea", "Käfer", "tench", "lorikeet", "flamingo")


def result(probabilities):
    classes = ClassMap(NAMES[: len(probabilities)], tuple(range(1, 1 + len(probabilities))))
    return Classification("a.jpg", np.array(probabilities, np.float32), classes)


def test_the_answer_and_the_order():
    found = result([0.125, 0.5, 0.25, 0.125])
    assert (found.index, found.label, found.score) == (1, "bees", 0.5)
    assert found.top(2) == [("bees", 0.5), (NAMES[2], 0.25)]
    assert [name for name, _ in found.top(9)] == ["bees", NAMES[2], "ants", "Käfer"]


def test_json_has_five_classes_with_their_original_ids():
    value = json.loads(json.dumps(result([0.0625, 0.5, 0.125, 0.25, 0, 0.03125, 0.03125]).to_json()))
    assert value["id"] == "a.jpg" and value["label"] == "bees" and value["score"] == 0.5
    assert [(row["id"], row["probability"]) for row in value["top"]] == [
        (2, 0.5), (4, 0.25), (3, 0.125), (1, 0.0625), (6, 0.03125),
    ]  # fmt: skip


def test_one_class():
    assert result([1.0]).to_json()["top"] == [{"name": "ants", "id": 1, "probability": 1.0}]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"a\.jpg: the probabilities are not finite"):
        result([0.5, bad])


def test_probabilities_must_fit_the_classes():
    with pytest.raises(ValueError, match=r"a\.jpg: \(3,\) probabilities for 2 classes"):
        Classification("a.jpg", np.ones(3, np.float32) / 3, ClassMap(("a", "b")))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 7))
def test_drawing_fits_any_picture_and_leaves_it_as_it_was(height, width, k):
    picture = np.full((height, width, 3), 200, np.uint8)
    drawn = result([1 / k] * k).draw(picture)
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    assert (picture == 200).all() and (drawn != picture).any()


def test_a_large_picture_has_large_rows_and_bars_as_long_as_probabilities():
    picture = np.zeros((2400, 3200, 3), np.uint8)
    drawn = draw_bars(picture, [("a", 1.0), ("b", 0.25)])
    row, margin = 100, 25
    best, other = (drawn[margin + i * row, :, :].astype(int).sum(1) for i in (0, 1))
    lengths = [int((line == np.array(colour).sum()).sum()) for line, colour in
               ((best, (46, 125, 190)), (other, (105, 120, 135)))]  # fmt: skip
    assert lengths[1] == pytest.approx(lengths[0] / 4, abs=2) and lengths[0] > 1000


def pictures(channels, count=3):
    pixels = torch.full((count, channels, 10, 12), 0.5)
    sizes = [(10, 12), (6, 12), (10, 3)][:count]
    return Pictures(pixels, sizes, sizes, torch.eye(2, 3).expand(count, 2, 3), list("abc")[:count])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_sheet_has_a_tile_and_a_caption_for_each_picture(channels):
    targets = [{"label": torch.tensor(i)} for i in range(3)]
    sheet = draw_batch(pictures(channels), targets, ClassMap(("ants", "bees", "c")), columns=2, tile=64)
    assert sheet.shape == (4 + 2 * (64 + 14 + 4), 4 + 2 * (64 + 4), 3) and sheet.dtype == np.uint8
    grey = (sheet == 128).all(2)
    assert grey[4:68, 4:68].any() and grey[4:68, 72:136].any() and not grey[86:150, 72:].any()


def test_an_empty_batch_is_an_empty_sheet():
    sheet = draw_batch(pictures(3, 0), [], ClassMap(("ants",)), tile=64)
    assert (sheet == 250).all()


def test_right_is_green_and_wrong_is_red():
    results = [result([0.75, 0.25, 0])] * 2
    targets = [{"label": torch.tensor(i)} for i in (0, 1)]
    sheet = draw_predictions(pictures(3, 2), results, targets, columns=2, tile=64)
    captions = sheet[70]
    assert (captions[5] == (30, 130, 60)).all() and (captions[73] == (200, 40, 40)).all()
