"""Outlines: what was written comes back, and masks are pycocotools' own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from retinue.datasets.segments import Segments, fault, gather

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda s: arrays(bool, s))
POINT = st.floats(-6, 30, width=32)
RING = st.lists(st.tuples(POINT, POINT), min_size=3, max_size=8).map(lambda r: [v for p in r for v in p])
RINGS = st.lists(RING, min_size=1, max_size=3)


def compressed(mask: np.ndarray) -> dict:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict:
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


@given(MASKS)
def test_codes_come_back_and_decode(mask: np.ndarray) -> None:
    written = [compressed(mask), None, uncompressed(mask)]
    segments = Segments.of(written)
    assert [segments.written(i) for i in range(3)] == written
    assert all(fault(one, *mask.shape) == "" for one in written)
    decoded = segments.decode(range(3), *mask.shape)
    assert decoded.dtype == bool and (decoded[0] == mask).all() and (decoded[2] == mask).all()
    assert not decoded[1].any()
    assert segments.area(0, *mask.shape) == segments.area(2, *mask.shape) == mask.sum()
    assert segments.area(1, *mask.shape) == 0


@given(RINGS)
def test_polygons_come_back_and_are_drawn_as_pycocotools_does(rings: list[list[float]]) -> None:
    segments = Segments.of([rings])
    assert segments.written(0) == rings and fault(rings, 20, 24) == ""
    truth = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, 20, 24)))
    assert (segments.decode([0], 20, 24)[0] == truth).all()


def test_a_ring_mask_keeps_its_hole() -> None:
    mask = np.zeros((9, 11), bool)
    mask[1:8, 2:9] = True
    mask[3:5, 4:6] = False
    assert (Segments.of([compressed(mask)]).decode([0], 9, 11)[0] == mask).all()


def test_overlapping_polygons_are_a_union() -> None:
    square = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
    inner = [4.0, 4.0, 6.0, 4.0, 6.0, 6.0, 4.0, 6.0]
    whole, with_inner = Segments.of([[square], [square, inner]]).decode([0, 1], 10, 10)
    assert whole.sum() == 36 and (whole == with_inner).all()


@given(
    st.lists(st.one_of(st.none(), RINGS, MASKS.map(compressed), MASKS.map(uncompressed)), max_size=6),
    st.data(),
)
def test_select(written: list, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(written) - 1), max_size=8) if written else st.just([]))
    chosen = Segments.of(written).select(np.array(rows, np.int64))
    assert [chosen.written(i) for i in range(len(chosen))] == [written[row] for row in rows]
    mask = np.arange(len(written)) % 2 == 0
    assert len(Segments.of(written).select(mask)) == mask.sum()


def test_gather() -> None:
    rows, offsets = gather(np.array([0, 2, 2, 5]), np.array([2, 0, 1, 2]))
    assert rows.tolist() == [2, 3, 4, 0, 1, 2, 3, 4] and offsets.tolist() == [0, 3, 5, 5, 8]
    rows, offsets = gather(np.array([0, 2]), np.array([], np.int64))
    assert rows.tolist() == [] and offsets.tolist() == [0]


def test_scaled_moves_each_object_by_its_own_factors() -> None:
    ring = [0.5, 0.5, 1.0, 0.5, 1.0, 1.0]
    segments = Segments.of([[ring], None, [ring, ring]]).scaled(np.array([[10, 20], [1, 1], [2, 4]]))
    assert segments.written(0) == [[5, 10, 10, 10, 10, 20]]
    assert segments.written(1) is None
    assert segments.written(2) == [[1, 2, 2, 2, 2, 4]] * 2


def test_nothing_decodes_to_nothing() -> None:
    assert Segments.of([]).decode([], 5, 7).shape == (0, 5, 7)


def code(counts: object, size: object = (4, 5)) -> dict:
    return {"size": list(size) if isinstance(size, tuple) else size, "counts": counts}


@pytest.mark.parametrize(
    "written",
    [
        *("text", 3, [3], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4, 5, "6"]]),
        *([[float("nan"), 2, 3, 4, 5, 6]], [[1, 2, float("nan"), 10**400, 5, 6]]),
        *([[1, 2, 3, 4, 5, float("nan")]], [[1, 2, 3, 4, 5, float("inf")]], [[1, 2, 3, 4, 5, 1e308]]),
        *([[1, 2, 3, 4, 5, 10**400]], [[1, 2, 3, 4, 5, None]], [[True] * 6], {}, {"counts": [20]}),
        *(code([19]), code([21]), code([-1, 21]), code([]), code([20.0]), code([[20]]), code(None), code([10**400])),
        *(code("d0", (5, 4)), code("d0", [4]), code("d0", "4x5"), code([20], (-4, -5)), code("")),
        *(code("\x00"), code("d" * 50), code("P"), code("~~~"), code("é"), code("\ud800"), code("d0\n")),
    ],
)  # fmt: skip
def test_faults(written: object) -> None:
    assert fault(written, 4, 5) != ""


@settings(max_examples=300)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=115), max_size=12), st.integers(1, 9))
def test_whatever_is_found_sound_can_be_drawn(text: str, side: int) -> None:
    written = {"size": [side, side], "counts": text}
    if not fault(written, side, side):
        runs = Segments.of([written]).decode([0], side, side)
        assert runs.shape == (1, side, side)


@given(MASKS, st.data())
def test_altered_codes_are_found(mask: np.ndarray, data: st.DataObject) -> None:
    text = compressed(mask)["counts"]
    at = data.draw(st.integers(0, len(text) - 1))
    other = text[:at] + data.draw(st.sampled_from("0123456789:;<=>?@ABCP_`ao")) + text[at + 1 :]
    altered = {"size": list(mask.shape), "counts": other}
    if not fault(altered, *mask.shape):
        decoded = Segments.of([altered]).decode([0], *mask.shape)[0]
        assert coco_mask.area({**altered, "counts": other.encode()}) == decoded.sum()
