"""Run-length codes: read as pycocotools reads them, and nothing that is none gets that far."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from retinue.datasets.rle import fills, is_rle, run_lengths

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda s: arrays(bool, s))


def encode(mask: np.ndarray) -> dict:
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": code["size"], "counts": code["counts"].decode()}


@given(MASKS)
def test_runs_are_those_of_the_columns(mask: np.ndarray) -> None:
    code = encode(mask)
    assert is_rle(code, mask.shape)
    runs = run_lengths(code["counts"])
    assert runs is not None and fills(runs, *mask.shape)
    painted = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    assert (mask == painted.reshape(mask.shape[::-1]).T).all()


def test_a_code_by_hand() -> None:
    """Runs 2, 3, 70, 5: 70 is 6 + 2 * 32 and stands in two characters, 5 as its difference of 2 to the run of 3."""
    runs = run_lengths("23V22")
    assert runs is not None and runs.tolist() == [2, 3, 70, 5]
    assert fills(runs, 8, 10) and not fills(runs, 8, 11) and not fills(np.zeros(0, np.int64), 0, 0)


@pytest.mark.parametrize("counts", ["", "0", "99", "P", "ooooooooooooo", "04\x00", "ü", 3, None, b"04", [4]])
def test_what_is_no_code_is_refused(counts: object) -> None:
    assert not is_rle({"size": [2, 2], "counts": counts}, (2, 2))


@pytest.mark.parametrize("size", [None, 4, "22", {2: 2}, [2], [2, 2, 1], [[2], 2]])
def test_what_is_no_size_is_no_code(size: object) -> None:
    assert not is_rle({"size": size, "counts": encode(np.ones((2, 2), bool))["counts"]}, (2, 2))


def test_a_code_of_another_size_is_refused() -> None:
    code = encode(np.ones((2, 3), bool))
    assert is_rle(code, (2, 3)) and not is_rle(code, (3, 2))
    assert not is_rle({"counts": code["counts"]}, (2, 3)) and not is_rle(None, (2, 3))
