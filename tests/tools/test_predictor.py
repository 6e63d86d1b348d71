"""Predictor: arrays in, results out, alone or in a batch."""

from pathlib import Path

import numpy as np
import pytest

from retinue.datasets.targets import DataError
from retinue.tools.predict import Predictor


def arrays(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (20 + 7 * i, 50 - 5 * i, 3), np.uint8) for i in range(count)]


def test_alone_and_in_a_batch_the_answer_is_the_same(saved: Path) -> None:
    predictor = Predictor.open(str(saved), device="cpu")
    together = predictor(arrays(5), [f"p{i}" for i in range(5)])
    for i, picture in enumerate(arrays(5)):
        (alone,) = predictor([picture])
        assert together[i]["classification"].id == f"p{i}"
        difference = alone["classification"].probabilities - together[i]["classification"].probabilities
        assert np.abs(difference).max() < 1e-5


def test_predictor_takes_sixteen_bits_and_no_pictures_at_all(saved: Path) -> None:
    predictor = Predictor.open(str(saved), device="cpu")
    assert predictor([]) == []
    (eight,), (sixteen,) = predictor(arrays(1)), predictor([arrays(1)[0].astype(np.uint16) * 257])
    assert np.allclose(
        eight["classification"].probabilities, sixteen["classification"].probabilities, atol=1e-4
    )


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_predictor_names_what_is_no_picture(wrong: np.ndarray, saved: Path) -> None:
    with pytest.raises(DataError, match="picture mine"):
        Predictor.open(str(saved), device="cpu")([wrong], ["mine"])
