"""Polygons draw the very pixels of the masks that they were traced from."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask

from retinue.datasets.polygons import as_polygons, cut, joined, trace

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12), elements=st.booleans())


def code(mask: np.ndarray) -> dict[str, Any]:
    made = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": made["counts"].decode()}


def drawn(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    if not polygons:
        return np.zeros((height, width), bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


def test_a_rectangle_is_its_corners() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    assert [ring.tolist() for ring in trace(mask)] == [[[1, 1], [4, 1], [4, 3], [1, 3]]]
    assert trace(np.zeros((3, 3), bool)) == []


def test_a_hole_runs_the_other_way_and_corners_do_not_connect() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    outer, hole = trace(ring)
    assert outer.tolist() == [[0, 0], [3, 0], [3, 3], [0, 3]]
    assert sorted(hole.tolist()) == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert [len(each) for each in trace(np.eye(2, dtype=bool))] == [4, 4]


@settings(max_examples=300, deadline=None)
@given(MASKS, st.booleans())
def test_what_is_traced_is_drawn_again(mask: np.ndarray, single: bool) -> None:
    polygons, overlap = as_polygons(code(mask), *mask.shape, single)
    assert (drawn(polygons, *mask.shape) == mask).all() and overlap == 1
    assert len(polygons) <= 1 or not single
    assert polygons or not mask.any()


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_area_and_length_of_the_edges(mask: np.ndarray) -> None:
    rings = trace(mask)
    area = sum(float(np.cross(r, np.roll(r, -1, 0), axis=1).sum()) / 2 for r in map(with_depth, rings))
    length = sum(float(np.abs(np.roll(ring, -1, 0) - ring).sum()) for ring in rings)
    padded = np.pad(mask, 1).astype(int)
    assert area == mask.sum()
    assert length == np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()


def with_depth(ring: np.ndarray) -> np.ndarray:
    return np.concatenate([ring, np.zeros((len(ring), 1))], 1)


def test_polygons_stay_as_they_are_unless_they_must_be_one() -> None:
    apart = [[1.5, 1.5, 5.5, 1.5, 5.5, 5.5], [8.25, 8.25, 12.5, 8.25, 12.5, 12.5, 8.25, 12.5]]
    assert as_polygons(apart, 20, 20, single=False) == (apart, 1.0)
    assert as_polygons(apart[:1], 20, 20, single=True) == (apart[:1], 1.0)
    (one,), overlap = as_polygons(apart, 20, 20, single=True)
    assert overlap == 1 and len(one) == len(apart[0]) + len(apart[1]) + 4
    assert {*zip(one[::2], one[1::2])} == {(x, y) for ring in apart for x, y in zip(ring[::2], ring[1::2])}


def test_rings_that_overlap_are_traced_where_joining_would_cut_out_what_they_share() -> None:
    crossing = [[1.0, 1, 8, 1, 8, 8, 1, 8], [4.0, 4, 12, 4, 12, 12, 4, 12]]
    (one,), overlap = as_polygons(crossing, 20, 20, single=True)
    assert overlap == 1 and (drawn([one], 20, 20) == drawn(crossing, 20, 20)).all()


def test_bridges_lead_there_and_back() -> None:
    squares = [np.array([[x, 0], [x + 1, 0], [x + 1, 1], [x, 1]], float) for x in (0, 3, 6)]
    one = joined(squares)
    edges = [tuple(map(tuple, edge)) for edge in zip(one.tolist(), np.roll(one, -1, 0).tolist())]
    back = [edge for edge in edges if edge[::-1] in edges and edge[0] != edge[1]]
    assert len(back) == 4 and len(one) == 12 + 4


def test_uncompressed_codes_and_large_masks() -> None:
    assert as_polygons({"size": [2, 2], "counts": [0, 4]}, 2, 2, False) == ([[0, 0, 2, 0, 2, 2, 0, 2]], 1.0)
    noise = np.random.default_rng(0).random((60, 80)) < 0.5
    (_,), overlap = as_polygons(code(noise), 60, 80, single=True)
    assert overlap == 1


@pytest.mark.slow
def test_many_masks() -> None:
    luck = np.random.default_rng(1)
    for _ in range(3000):
        mask = luck.random(luck.integers(1, 60, 2)) < luck.random()
        for single in (False, True):
            assert as_polygons(code(mask), *mask.shape, single)[1] == 1


def test_what_a_ring_shows_of_itself_in_the_picture() -> None:
    triangle = np.array([[-10.0, 5], [10, 5], [-10, 25]])
    assert cut(triangle, 20, 30).tolist() == [[0, 5], [10, 5], [0, 15]]
    inside = np.array([[1.0, 1], [30, 1], [5, 20]])
    assert (cut(inside, 20, 30) == inside).all()
    assert cut(triangle - 100, 20, 30).shape == (0, 2)
    around = np.array([[-9.0, -9], [99, -9], [99, 99], [-9, 99]])
    assert sorted(cut(around, 20, 30).tolist()) == [[0, 0], [0, 20], [30, 0], [30, 20]]


def encloses(ring: np.ndarray, x: float, y: float) -> bool:
    """Whether a point lies in a ring, by parity: how often a ray to the right crosses it."""
    crossed = 0
    for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, 0)):
        crossed += (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1)
    return bool(crossed % 2)


@given(st.lists(st.tuples(st.integers(-20, 40), st.integers(-20, 40)), min_size=3, max_size=7))
def test_cut_rings_enclose_what_they_did(points: list[tuple[int, int]]) -> None:
    ring = np.array(points, np.float64)
    left = cut(ring, 18, 20)
    assert not len(left) or (left.min() >= 0 and (left.max(0) <= (20, 18)).all())
    for x, y in itertools.product(np.arange(0.3137, 20, 3), np.arange(0.2719, 18, 3)):
        assert encloses(left, x, y) == encloses(ring, x, y)
