import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.tasks.detection.confusion import class_table, confusion_matrix
from retinue.tasks.detection.curves import ap_101, class_curves, mean
from retinue.tasks.detection.errors import KINDS, assign, tide
from retinue.tasks.detection.judged import JudgedBoxes
from retinue.tasks.detection.voc_ap import voc_ap

BOX, FAR = (0, 0, 10, 10), (50, 50, 60, 60)
POOR = (0, 0, 10, 4)  # 0.4 of BOX
CAT, DOG = 0, 1


def kinds(judged, classes=2):
    return [KINDS[kind] if kind >= 0 else "" for kind in assign(judged, classes).kind]


@pytest.mark.parametrize(
    ("found", "kind", "gain"),
    [
        ((BOX, DOG, 0.9), "classification", 1),
        ((POOR, CAT, 0.9), "localisation", 1),
        ((POOR, DOG, 0.9), "both", None),
        ((FAR, CAT, 0.9), "background", None),
    ],
)
def test_one_error_of_one_kind(judge, found, kind, gain):
    judged = judge(([(BOX, CAT)], [found]), ([(BOX, DOG)], [(BOX, DOG, 0.8)]))
    errors = tide(judged, 2)
    assert kinds(judged) == [kind, ""]
    assert errors.counts == {
        name: int(name == kind) + int(name == "missed" and gain is None) for name in KINDS
    }
    if (
        gain is not None
    ):  # corrected, everything is right, and no other correction but the general ones adds anything
        assert errors.ap + errors.gains[kind] == gain
        assert errors.gains["missed"] == errors.gains["background"] == errors.gains["duplicate"] == 0


def test_the_gains_of_a_wrong_class_by_hand(judge):
    judged = judge(([(BOX, CAT)], [(BOX, DOG, 0.9)]), ([(BOX, DOG)], [(BOX, DOG, 0.8)]))
    errors = tide(judged, 2)
    assert errors.ap == (0 + 0.5) / 2  # no cat is found; the dog comes second
    assert errors.gains["classification"] == 0.75
    assert errors.false_positives == 0.25  # the dog comes first
    # No cat is asked for, nor was one called: nothing is wrong with cats.
    assert errors.false_negatives == 0.5


def test_a_second_hit_is_a_duplicate_and_costs_precision(judge):
    judged = judge(([(BOX, CAT), (FAR, CAT)], [(BOX, CAT, 0.9), (BOX, CAT, 0.8), (FAR, CAT, 0.7)]))
    errors = tide(judged, 1)
    assert kinds(judged, 1) == ["", "duplicate", ""]
    assert errors.ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert errors.gains["duplicate"] == errors.false_positives == pytest.approx(50 / 3 / 101)


def test_a_missed_truth_stretches_the_curve(judge):
    judged = judge(([(BOX, CAT), (FAR, CAT)], [(BOX, CAT, 0.9)]))
    errors = tide(judged, 1)
    assert errors.counts == {**dict.fromkeys(KINDS, 0), "missed": 1}
    assert errors.ap == pytest.approx(51 / 101)
    assert errors.gains["missed"] == errors.false_negatives == pytest.approx(50 / 101)
    assert sum(errors.gains.values()) == errors.gains["missed"]


def test_of_two_corrections_of_one_truth_only_the_best_counts(judge):
    both = [(POOR, CAT, 0.9), (POOR, CAT, 0.8)]
    errors = tide(judge(([(BOX, CAT)], both)), 1)
    assert errors.ap == 0 and errors.gains["localisation"] == 1 and errors.counts["localisation"] == 2
    # Found already: the poor ones go away, and the right one comes first.
    errors = tide(judge(([(BOX, CAT)], [*both, (BOX, CAT, 0.7)])), 1)
    assert errors.ap == pytest.approx(1 / 3) and errors.gains["localisation"] == pytest.approx(2 / 3)


def test_a_truth_near_a_correctable_detection_is_not_missed(judge):
    verdict = assign(judge(([(BOX, CAT), (FAR, CAT), (FAR, DOG)], [(POOR, CAT, 0.9), (FAR, DOG, 0.8)])), 2)
    assert verdict.found.tolist() == [False, False, True]
    assert verdict.missed.tolist() == [False, True, False]
    assert verdict.target.tolist() == [0, 2]


def test_crowds_are_neither_missed_nor_near(judge):
    judged = judge(
        ([(BOX, CAT, True)], [(BOX, CAT, 0.9), (BOX, DOG, 0.8), (POOR, DOG, 0.7)]), ([(FAR, DOG)], [])
    )
    assert kinds(judged) == ["", "background", "background"]
    assert assign(judged, 2).missed.tolist() == [False, True]


def test_nothing_is_wrong_with_perfect_detections(judge):
    truths = [(BOX, CAT), (FAR, DOG)]
    errors = tide(judge((truths, [(*truth, 0.5) for truth in truths])), 2)
    assert errors.ap == 1 and set(errors.counts.values()) == {0}
    assert set(errors.gains.values()) == {errors.false_positives, errors.false_negatives} == {0}


def test_no_truth_no_detections_nothing(judge):
    for judged in (judge(), judge(([], [])), judge(([], [(BOX, CAT, 0.5)]))):
        errors = tide(judged, 2)
        assert np.isnan([errors.ap, *errors.gains.values(), errors.false_positives]).all()
        assert errors.counts["background"] == len(judged.scores)
    silent = tide(judge(([(BOX, CAT)], [])), 2)
    assert silent.ap == 0 and silent.gains["missed"] == silent.false_negatives == 1
    assert silent.false_positives == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_every_error_has_one_kind_and_no_correction_harms(scattered, seed):
    judged = scattered(seed, classes=3)
    verdict, errors = assign(judged, 3), tide(judged, 3)
    wrong = ~verdict.right & ~verdict.ignored
    assert np.array_equal(verdict.kind >= 0, wrong)
    assert sum(errors.counts.values()) == wrong.sum() + verdict.missed.sum()
    curves = class_curves(judged, 3)
    assert sum(curve.right.sum() for curve in curves) == verdict.right.sum() == verdict.found.sum()
    if judged.truths(3).any():
        assert errors.ap == mean([ap_101(curve) for curve in curves])
        assert min(*errors.gains.values(), errors.false_positives, errors.false_negatives) >= -1e-12
        assert max(errors.gains.values()) <= 1 - errors.ap + 1e-12


def test_five_thousand_pictures_take_seconds():
    rng = np.random.default_rng(0)
    pictures, per, each, k = 5000, 7, 36, 80
    corner = rng.uniform(0, 500, (pictures, per, 2))
    truth = np.concatenate([corner, corner + rng.uniform(10, 140, (pictures, per, 2))], 2)
    labels = rng.integers(0, k, (pictures, per))
    origin = rng.integers(0, per, (pictures, each))
    rows = np.arange(pictures)[:, None]
    judged = JudgedBoxes(
        truth_boxes=truth.reshape(-1, 4),
        truth_labels=labels.reshape(-1),
        truth_crowd=np.zeros(pictures * per, bool),
        truth_picture=np.repeat(np.arange(pictures), per),
        boxes=(truth[rows, origin] + rng.normal(0, 5, (pictures, each, 4))).reshape(-1, 4),
        scores=rng.random(pictures * each),
        labels=np.where(rng.random((pictures, each)) < 0.7, labels[rows, origin], 0).reshape(-1),
        picture=np.repeat(np.arange(pictures), each),
        picture_ids=tuple(map(str, range(pictures))),
    )
    for work in (
        lambda: tide(judged, k),
        lambda: voc_ap(judged, k),
        lambda: confusion_matrix(judged, k, 0.3),
        lambda: class_table(judged, [str(i) for i in range(k)]),
    ):
        start = time.process_time()
        work()
        assert time.process_time() - start < 8  # about 1 on an idle core
