"""The engines: pycocotools is the judge on random cases, the fast one is trusted where it gives its numbers."""

import contextlib
import io
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flat_objects import found_of, objects, truth_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from retinue.tasks.detection import coco_engines
from retinue.tasks.detection.average_precision import average_precision
from retinue.tasks.detection.coco_engines import (
    IOU_TYPES,
    Arrays,
    Counts,
    Found,
    Truth,
    box_rles,
    by_hotcoco,
    by_pycocotools,
    check_case,
    mask_areas,
    trusted_engine,
)


def difference(a: Arrays, b: Arrays) -> float:
    return max(float(np.abs(x - y).max(initial=0)) for x, y in zip(a, b, strict=True))


def files(
    truth: Truth, found: Found, counts: Counts, kind: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same case as COCO's two files, with annotations numbered from 1: written without the code under test."""
    frame = {
        "info": {},
        "images": [{"id": i, "height": 220, "width": 200} for i in range(counts.pictures)],
        "categories": [{"id": 7 + k, "name": str(k)} for k in range(counts.classes)],
    }
    annotations, results = [], []
    for i in range(len(truth)):
        one = {
            "id": i + 1,
            "image_id": int(truth.pictures[i]),
            "category_id": int(truth.labels[i]) + 7,
            "bbox": truth.xywh[i].tolist(),
            "area": float(truth.area[i]),
            "iscrowd": int(truth.crowd[i]),
        }
        if truth.masks is not None:
            one["segmentation"] = truth.masks[i]
        if truth.keypoints is not None:
            one |= {
                "keypoints": truth.keypoints[i].ravel().tolist(),
                "num_keypoints": int((truth.keypoints[i, :, 2] > 0).sum()),
            }
        annotations.append(one)
    for i in range(len(found)):
        one = {
            "image_id": int(found.pictures[i]),
            "category_id": int(found.labels[i]) + 7,
            "score": float(found.scores[i]),
        }
        if kind == "mask" and found.masks is not None:
            one["segmentation"] = found.masks[i]
        elif kind == "keypoints" and found.keypoints is not None:
            one["keypoints"] = found.keypoints[i].ravel().tolist()
        else:
            one["bbox"] = found.xywh[i].tolist()
        results.append(one)
    return {**frame, "annotations": annotations}, results


def as_its_users_call_it(case: tuple[Truth, Found, Counts, str, np.ndarray | None]) -> np.ndarray:
    """The figures that pycocotools prints, -1 as NaN."""
    dataset, results = files(*case[:4])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), IOU_TYPES[case[3]])
        if case[4] is not None:
            evaluation.params.kpt_oks_sigmas = case[4]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Truth, Found, Counts, str, np.ndarray | None]:
    """Small worlds on a coarse grid, where ties of scores, of overlaps and of areas are common."""
    kind = draw(st.sampled_from(["box", "box", "mask", "keypoints"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    counts = Counts(draw(st.integers(1, 5)), draw(st.integers(1, 3)))
    n, m = draw(st.integers(0, 12)), draw(st.sampled_from([1, 3, 10, 30, 30, 150]))
    step = draw(st.sampled_from([1.0, 5.0, 0.37]))
    least = step if kind == "mask" else draw(st.sampled_from([step, step, 0]))  # boxes of no area

    def world(count: int) -> dict[str, np.ndarray]:
        xywh = rng.integers(0, 20, (count, 4)) * step + np.array([0, 0, least, least])
        return objects(xywh, rng.integers(0, counts.classes, count), rng.integers(0, counts.pictures, count))

    areas = np.array([0, 900, 32**2, 32**2 + 1e-9, 5000, 96**2, 96**2 + 1, 1e5])
    truth = Truth(
        **world(n), crowd=rng.random(n) < draw(st.sampled_from([0, 0.3, 1])), area=rng.choice(areas, n)
    )
    columns = world(m)
    if n:  # most detections are at or beside an object
        near = rng.random(m) < 0.8
        origin = rng.integers(0, n, m)
        shift = rng.integers(-1, 2, (m, 4)) * step * rng.integers(0, 2, (m, 1))
        beside = (truth.xywh[origin] + shift).clip(0)
        columns["xywh"] = np.where(near[:, None], beside, columns["xywh"])
        columns["pictures"] = np.where(near, truth.pictures[origin], columns["pictures"])
        columns["labels"] = np.where(near & (rng.random(m) < 0.8), truth.labels[origin], columns["labels"])
    levels = draw(st.sampled_from([1, 4, 1000]))
    found = Found(**columns, scores=rng.integers(0, levels, m) / levels)
    if kind == "mask":
        truth = replace(truth, masks=box_rles(truth.xywh, (220, 200)))
        found = replace(found, masks=box_rles(found.xywh, (220, 200)))
    if kind != "keypoints":
        return truth, found, counts, kind, None
    points = rng.integers(0, 9, (n, 3, 2)) * truth.xywh[:, None, 2:] / 8 + truth.xywh[:, None, :2]
    seen = rng.integers(0, 3, (n, 3, 1)) * (rng.random((n, 1, 1)) < 0.8)
    guess = rng.integers(0, 9, (m, 3, 2)) * found.xywh[:, None, 2:] / 8 + found.xywh[:, None, :2]
    truth = replace(truth, keypoints=np.concatenate([points, seen], 2))
    found = replace(found, keypoints=np.concatenate([guess, np.ones((m, 3, 1))], 2))
    return truth, found, counts, kind, np.array([0.05, 0.1, 0.3])


def agree(case: tuple[Truth, Found, Counts, str, np.ndarray | None]) -> None:
    fast, judge = by_hotcoco(*case), by_pycocotools(*case)
    assert difference(fast, judge) <= 1e-12
    figures = average_precision(*case, engine=lambda *_: judge).figures()
    np.testing.assert_allclose(list(figures.values()), as_its_users_call_it(case), rtol=0, atol=1e-12)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases())
def test_random_cases_have_pycocotools_numbers(case: Any) -> None:
    agree(case)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_ten_thousand_random_cases_have_pycocotools_numbers(case: Any) -> None:
    agree(case)


def test_more_than_a_hundred_detections_in_a_picture() -> None:
    """Of 300 the 100 best are judged: the object that only the 101st finds is missed."""
    truth = truth_of([[0, 0, 10, 10]])
    boxes = [[50.0 + i % 10, 50, 9, 9] for i in range(299)] + [[0, 0, 10, 10]]
    scores = np.linspace(1, 0.5, 300)
    for place, expected in ((99, 0.01), (100, 0.0)):
        order = np.insert(np.arange(299), place, 299)
        found = found_of(np.array(boxes)[order], scores)
        figures = average_precision(truth, found, Counts(1, 1)).figures()
        assert figures["AP"] == pytest.approx(expected, abs=1e-9)
        agree((truth, found, Counts(1, 1), "box", None))


# The choice of the engine


@pytest.fixture
def fresh() -> Any:
    trusted_engine.cache_clear()
    yield
    trusted_engine.cache_clear()


@pytest.mark.parametrize("kind", list(IOU_TYPES))
def test_the_fast_engine_is_trusted_once_it_has_the_judges_numbers(kind: str, fresh: None) -> None:
    assert trusted_engine(kind) is by_hotcoco
    judged = by_pycocotools(*check_case(kind)).precision
    assert len(np.unique(judged)) > 5, "a check that could tell nothing apart"


def test_without_the_fast_engine_the_judge_computes_and_says_so(
    fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(coco_engines, "hotcoco", None)
    with caplog.at_level(logging.WARNING, "retinue"):
        assert trusted_engine("box") is trusted_engine("box") is by_pycocotools
    assert len(caplog.records) == 1 and "hotcoco is not installed" in caplog.text


@pytest.mark.parametrize("fault", ["differs", "fails"])
def test_an_engine_that_differs_or_fails_is_not_used(
    fault: str, fresh: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = by_hotcoco

    def broken(*case: Any) -> Arrays:
        if fault == "fails":
            raise TypeError("another signature")
        arrays = real(*case)
        arrays.precision[0, 0, 0, 0, 0] += 1e-6
        return arrays

    monkeypatch.setattr(coco_engines, "by_hotcoco", broken)
    with caplog.at_level(logging.WARNING, "retinue"):
        assert trusted_engine("mask") is by_pycocotools
    assert len(caplog.records) == 1 and fault in caplog.text


def test_areas_of_many_masks() -> None:
    """More than 255, which pycocotools cannot count at once with numpy 2."""
    masks = box_rles(np.array([[0.0, 0, 10, 5]] * 300), (20, 20))
    assert mask_areas(masks).tolist() == [50] * 300 and mask_areas([]).shape == (0,)
