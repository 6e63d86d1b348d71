"""COCO's figures: the published anchor, pycocotools on random cases, and the traps that others fall into."""

import contextlib
import io
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from retinue.datasets.targets import DataError
from retinue.tasks.detection import coco_engines
from retinue.tasks.detection.average_precision import COCO_SIGMAS, average_precision, flat_figures, oks_sigmas
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

ANCHOR = Path(__file__).parents[4] / "shared" / "data" / "coco_anchor"
NONE = np.zeros(0, np.int64)


def objects(boxes: Any, labels: Any = None, pictures: Any = None) -> dict[str, np.ndarray]:
    """The columns that truth and detections share."""
    xywh = np.array(boxes, np.float64).reshape(-1, 4)
    labels = np.zeros(len(xywh), np.int64) if labels is None else np.array(labels)
    pictures = np.zeros(len(xywh), np.int64) if pictures is None else np.array(pictures)
    return {"pictures": pictures, "labels": labels, "xywh": xywh}


def truth_of(boxes: Any, labels: Any = None, pictures: Any = None, crowd: Any = None) -> Truth:
    columns = objects(boxes, labels, pictures)
    crowd = np.zeros(len(columns["labels"]), bool) if crowd is None else np.array(crowd, bool)
    return Truth(**columns, crowd=crowd, area=columns["xywh"][:, 2:].prod(1))


def found_of(boxes: Any, scores: Any, labels: Any = None, pictures: Any = None) -> Found:
    return Found(**objects(boxes, labels, pictures), scores=np.array(scores, np.float64))


def difference(a: Arrays, b: Arrays) -> float:
    return max(float(np.abs(x - y).max(initial=0)) for x, y in zip(a, b, strict=True))


# By hand


def test_two_of_three_objects_found_with_a_false_one_between() -> None:
    """Scores: right, wrong, right, of 3: precision 1 to recall 1/3 (34 of 101 points), 2/3 to recall 2/3 (33)."""
    boxes = [[0, 0, 10, 10], [50, 0, 10, 10], [0, 50, 10, 10]]
    found = found_of([boxes[0], [80, 80, 9, 9], boxes[1]], [0.9, 0.8, 0.7])
    figures = average_precision(truth_of(boxes), found, Counts(1, 1)).figures()
    assert figures["AP"] == pytest.approx((34 * 1 + 33 * 2 / 3) / 101, abs=1e-12)
    assert (figures["AR1"], figures["AR10"]) == pytest.approx((1 / 3, 2 / 3), abs=1e-12)
    assert figures["APs"] == figures["AP"] and np.isnan([figures["APm"], figures["APl"]]).all()


def test_iou_decides_by_threshold() -> None:
    """Half a box beside the truth: intersection 2 of 3, IoU 0.5 exactly, which counts at 0.5 only."""
    figures = average_precision(
        truth_of([[0, 0, 30, 10]]), found_of([[0, 0, 15, 10]], [1]), Counts(1, 1)
    ).figures()
    assert (figures["AP50"], figures["AP75"], figures["AP"]) == pytest.approx((1, 0, 0.1), abs=1e-12)


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong() -> None:
    truth = truth_of([[0, 0, 10, 10], [50, 50, 40, 40]], crowd=[False, True])
    inside = found_of([[55, 55, 5, 5], [70, 70, 5, 5], [0, 0, 10, 10]], [0.9, 0.8, 0.7])
    assert average_precision(truth, inside, Counts(1, 1)).figures()["AP"] == pytest.approx(1)


def test_of_equal_scores_the_earlier_comes_first() -> None:
    """As in pycocotools: within a picture by row, over pictures by picture, whatever the rows' order."""
    truth = truth_of([[0, 0, 10, 10]], pictures=[1])
    right, wrong = [0, 0, 10, 10], [50, 50, 9, 9]
    for boxes, pictures, expected in (
        ([right, wrong], [1, 1], 1.0),
        ([wrong, right], [1, 1], 0.5),
        ([right, wrong], [1, 0], 0.5),
        ([wrong, right], [2, 1], 1.0),
    ):
        curves = average_precision(truth, found_of(boxes, [0.5, 0.5], pictures=pictures), Counts(3, 1))
        assert curves.figures()["AP50"] == pytest.approx(expected)


def test_per_class_and_flat_names() -> None:
    boxes = [[0, 0, 10, 10], [50, 0, 10, 10]]
    curves = average_precision(truth_of(boxes, [0, 1]), found_of(boxes[:1], [1]), Counts(1, 3))
    np.testing.assert_equal(curves.per_class().round(12), [1, 0, np.nan])
    values = flat_figures({"box": curves}, ("cat", "dog", "cow"))
    assert list(values)[:3] == ["box/AP", "box/AP50", "box/AP75"] and len(values) == 15
    assert values["box/AP"] == pytest.approx(0.5) and np.isnan(values["box/AP/cow"])
    assert curves.precision.shape == (10, 101, 3, 4, 3) and curves.recall.shape == (10, 3, 4, 3)


def test_keypoints_have_ten_figures_and_their_own_sigmas() -> None:
    truth, found, counts, kind, sigmas = check_case("keypoints")
    figures = average_precision(truth, found, counts, kind, sigmas).figures()
    assert list(figures) == ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
    assert sigmas is not None
    looser = average_precision(truth, found, counts, kind, sigmas * 3).figures()
    assert looser["AP"] > figures["AP"] > 0
    with pytest.raises(DataError, match="4 keypoints without OKS sigmas"):
        average_precision(truth, found, counts, kind)
    assert oks_sigmas(None, np.zeros((2, 17, 3))) is COCO_SIGMAS
    np.testing.assert_allclose(COCO_SIGMAS, Params(iouType="keypoints").kpt_oks_sigmas, rtol=1e-15)


def test_oks_of_one_point_by_hand() -> None:
    """OKS = exp(-d^2 / (2 area (2 sigma)^2)): d is chosen for an OKS of 0.62, passed at 0.50, 0.55 and 0.60."""
    area, sigma = 2500.0, 0.05
    distance = np.sqrt(-np.log(0.62) * 2 * area * (2 * sigma) ** 2)
    truth = replace(truth_of([[0, 0, 50, 50]]), keypoints=np.array([[[20.0, 20, 2]]]))
    found = replace(found_of([[0, 0, 50, 50]], [1]), keypoints=np.array([[[20.0 + distance, 20, 1]]]))
    figures = average_precision(truth, found, Counts(1, 1), "keypoints", [sigma]).figures()
    assert figures["AP"] == pytest.approx(0.3)


# The anchor and the traps


@pytest.mark.skipif(not ANCHOR.is_dir(), reason="shared/data/coco_anchor is absent")
@pytest.mark.parametrize("engine", [None, by_pycocotools, by_hotcoco])
@pytest.mark.parametrize("name", ["bbox", "segm"])
def test_anchor(name: str, engine: Any) -> None:
    """cocoapi's own 100 pictures and fake results: the twelve numbers that its `check_anchor.py` states."""
    script = (ANCHOR / "check_anchor.py").read_text()
    right = json.loads(script[script.index("ref=") + 4 : script.index("def run")])[name]
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(ANCHOR / "instances_val2014_100.json"))
    results = json.loads((ANCHOR / f"instances_val2014_fake{name}100_results.json").read_text())
    pictures = {id: i for i, id in enumerate(sorted(data.imgs))}
    labels = {id: i for i, id in enumerate(sorted(data.cats))}
    annotations = data.dataset["annotations"]

    def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        boxes = [row.get("bbox", [0, 0, 0, 0]) for row in rows]
        return objects(
            boxes, [labels[r["category_id"]] for r in rows], [pictures[r["image_id"]] for r in rows]
        )

    truth = Truth(
        **columns(annotations),
        crowd=np.array([a["iscrowd"] for a in annotations], bool),
        area=np.array([a["area"] for a in annotations]),
        masks=[data.annToRLE(a) for a in annotations],
    )
    found = Found(**columns(results), scores=np.array([r["score"] for r in results]))
    if name == "segm":
        found = replace(found, masks=[r["segmentation"] for r in results])
    kind = {"bbox": "box", "segm": "mask"}[name]
    curves = average_precision(truth, found, Counts(len(pictures), len(labels)), kind, engine=engine)
    np.testing.assert_allclose(list(curves.figures().values()), right, rtol=0, atol=1e-10)


FOUR = [[10, 10, 40, 40]] * 4


@pytest.mark.parametrize("engine", [by_pycocotools, by_hotcoco])
def test_traps_of_evaluators(engine: Any) -> None:
    """What goes wrong elsewhere: annotation ids (there are none here), nothing found, nothing true, NaN scores."""
    counts, truth = Counts(4, 2), truth_of(FOUR, pictures=range(4))
    perfect = found_of(FOUR, [0.9] * 4, pictures=range(4))
    nothing = found_of([], [])

    def ap(truth: Truth, found: Found) -> float:
        return average_precision(truth, found, counts, engine=engine).figures()["AP"]

    assert ap(truth, perfect) == 1.0
    assert ap(truth, nothing) == 0.0
    assert np.isnan(ap(replace(truth, crowd=np.ones(4, bool)), perfect))
    assert np.isnan(ap(truth_of([]), perfect)) and np.isnan(ap(truth_of([]), nothing))
    two = replace(truth, labels=np.array([0, 1, 0, 1]))
    assert ap(two, replace(perfect, labels=np.ones(4, np.int64))) == pytest.approx(0.25, abs=0.01)
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match="picture 2: a detection's scores"):
            ap(truth, replace(perfect, scores=np.array([0.9, 0.9, bad, 0.9])))
        with pytest.raises(DataError, match="picture 0: a detection's xywh"):
            ap(truth, replace(perfect, xywh=np.full((4, 4), bad)))


def test_no_pictures_at_all() -> None:
    figures = average_precision(truth_of([]), found_of([], []), Counts(0, 2)).figures()
    assert np.isnan(list(figures.values())).all()


# Against pycocotools


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
