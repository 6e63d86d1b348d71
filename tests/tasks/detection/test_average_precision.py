"""COCO's figures: by hand, the published anchor, and the traps that others fall into."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flat_objects import found_of, objects, truth_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from retinue.datasets.targets import DataError
from retinue.tasks.detection.average_precision import COCO_SIGMAS, average_precision, flat_figures, oks_sigmas
from retinue.tasks.detection.coco_engines import (
    Counts,
    Found,
    Truth,
    by_hotcoco,
    by_pycocotools,
    check_case,
)

ANCHOR = Path(__file__).parents[4] / "shared" / "data" / "coco_anchor"


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
