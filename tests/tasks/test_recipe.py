"""What settings say of training pictures: what is drawn, for which pictures, and which settings are refused."""

from typing import Any

import numpy as np
import pytest

from retinue.backbones.backbone import Preprocessing
from retinue.datasets.targets import DataError, Sample
from retinue.datasets.transforms import ColorJitter, Compose, HorizontalFlip, RandomGamma, VerticalFlip
from retinue.tasks.recipe import check_recipe, looks

RGB = Preprocessing()
GREY = Preprocessing(mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(
    ("settings", "preprocessing", "expected"),
    [
        ({}, RGB, []),
        ({"flip": False, "vertical_flip": False, "colour": 0.0}, RGB, []),
        (
            {"flip": True, "vertical_flip": True, "colour": 0.2},
            RGB,
            [HorizontalFlip, VerticalFlip, ColorJitter],
        ),
        ({"flip": True, "colour": 0.2}, GREY, [HorizontalFlip]),
    ],
)
def test_looks_are_those_of_the_settings(
    settings: dict[str, Any], preprocessing: Preprocessing, expected: list[type]
) -> None:
    assert [type(step) for step in looks(settings, preprocessing)] == expected


def test_colours_of_its_own_and_pairs_that_change_places() -> None:
    flip, gamma = looks(
        {"flip": True, "colour": 0.5}, RGB, lambda strength: RandomGamma((strength, 1)), [(0, 1)]
    )
    assert isinstance(gamma, RandomGamma)
    points = np.array([[[1.0, 1, 2], [7, 2, 2]]], np.float32)
    sample = Sample("x", np.zeros((8, 8, 3), np.uint8), {"keypoints": points})
    seen = {
        tuple(Compose([flip])(sample, np.random.default_rng(i)).targets["keypoints"][0, :, 0].tolist())
        for i in range(20)
    }
    assert seen == {(1.0, 7.0)}  # mirrored, the left one is the right one's mirror image


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": 1.5}, r"colour=1\.5: colour is from 0 to 1"),
        ({"scales": [2.0, 1.0]}, r"scales=\[2\.0, 1\.0\]: two shares of imgsz"),
        ({"scales": [1.0]}, r"scales=\[1\.0\]"),
        ({"scales": [0.0, 1.0]}, r"scales=\[0\.0, 1\.0\]"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], message: str) -> None:
    check_recipe({"colour": 0.0, "scales": (1.0, 1.0)})
    with pytest.raises(DataError, match=message):
        check_recipe({"colour": 0.0, "scales": (1.0, 1.0)} | settings)
