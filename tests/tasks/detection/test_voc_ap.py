import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.tasks.detection.curves import Curve, ap_101, class_curves
from retinue.tasks.detection.voc_ap import ap_11, ap_area, voc_ap, voc_curves

BOX = (0, 0, 10, 10)


def curve(right, truths):
    return Curve(np.linspace(1, 0.5, len(right)), np.array(right, bool), truths)


def test_two_of_three_by_hand():
    two = curve([1, 0, 1, 0], 3)  # recall 1/3 at precision 1, 2/3 at 2/3
    assert ap_area(two) == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert ap_11(two) == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_a_recall_of_three_in_ten_reaches_the_point_at_0_3():
    assert ap_11(curve([1, 1, 1], 10)) == pytest.approx(4 / 11)
    assert ap_11(curve([1] * 7, 10)) == pytest.approx(8 / 11)
    assert ap_11(curve([1] * 10, 10)) == ap_area(curve([1] * 10, 10)) == 1


def test_a_second_hit_is_wrong_even_beside_a_free_truth(judge):
    other = (0, 0, 10, 14)
    judged = judge(([(BOX, 0), (other, 0)], [(BOX, 0, 0.9), ((0, 0, 10, 11), 0, 0.8)]))
    assert voc_curves(judged, 1)[0].right.tolist() == [True, False]
    assert class_curves(judged, 1)[0].right.tolist() == [True, True]  # COCO's falls back


@pytest.mark.parametrize("points", ["area", "11"])
def test_a_difficult_truth_neither_helps_nor_harms(judge, points):
    far = (50, 50, 60, 60)
    found = [(far, 0, 0.9), (far, 0, 0.8), (BOX, 0, 0.7)]
    assert voc_ap(judge(([(BOX, 0), (far, 0, True)], found)), 1, points=points).tolist() == [1]
    assert voc_ap(judge(([(BOX, 0), (far, 0)], found)), 1, points="area").tolist() == [pytest.approx(5 / 6)]


def test_the_devkits_pixels_make_boxes_one_larger(judge):
    judged = judge(([((0, 0, 9, 9), 0)], [((0, 0, 9, 4), 0, 0.5)]))
    assert voc_ap(judged, 1, inclusive=True).tolist() == [1]  # 50 of 100 pixels
    assert voc_ap(judged, 1).tolist() == [0]  # 36 of 81


def test_without_truth_or_detections(judge):
    far = (50, 50, 60, 60)
    assert np.isnan(voc_ap(judge(), 2)).all()
    assert np.isnan(voc_ap(judge(([], [(BOX, 0, 0.5)])), 1)).all()
    assert np.isnan(voc_ap(judge(([(BOX, 0, True)], [(BOX, 0, 0.5)])), 1)).all()
    values = voc_ap(judge(([(BOX, 1)], [(far, 1, 0.5)]), ([(BOX, 1), (far, 0)], [])), 3)
    assert values[:2].tolist() == [0, 0] and np.isnan(values[2])


def devkit(judged, label, least, inclusive):
    """AP by area and by 11 points, told as the devkit tells it: one detection, one truth, one point at a time."""
    rows = [i for i in np.argsort(-judged.scores, kind="stable") if judged.labels[i] == label]
    truths = [j for j, other in enumerate(judged.truth_labels) if other == label]
    positives = sum(not judged.truth_crowd[j] for j in truths)
    extra = 1 if inclusive else 0
    done, right, wrong, recalls, precisions = set(), 0, 0, [], []
    for i in rows:
        most, best = -np.inf, None
        a = judged.boxes[i]
        for j in truths:
            b = judged.truth_boxes[j]
            if judged.truth_picture[j] != judged.picture[i]:
                continue
            w = min(a[2], b[2]) - max(a[0], b[0]) + extra
            h = min(a[3], b[3]) - max(a[1], b[1]) + extra
            if w > 0 and h > 0:
                areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
                overlap = w * h / (sum(areas) - w * h)
                if overlap > most:
                    most, best = overlap, j
        if most >= least:
            if judged.truth_crowd[best]:
                continue
            right, wrong = (right + 1, wrong) if best not in done else (right, wrong + 1)
            done.add(best)
        else:
            wrong += 1
        recalls.append(right / max(positives, 1))
        precisions.append(right / (right + wrong))
    if not positives:
        return np.nan, np.nan
    eleven = [
        max([p for r, p in zip(recalls, precisions) if r >= t / 10 - 1e-9], default=0) for t in range(11)
    ]
    area, before = 0.0, 0.0
    for place, recall in enumerate(recalls):
        area += (recall - before) * max(precisions[place:])
        before = recall
    return area, sum(eleven) / 11


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), inclusive=st.booleans(), least=st.sampled_from([0.3, 0.5, 0.75]))
def test_the_devkit_told_in_loops_gives_the_same(scattered, seed, inclusive, least):
    judged = scattered(seed, classes=2)
    expected = np.array([devkit(judged, label, least, inclusive) for label in range(2)])
    for points, column in (("area", 0), ("11", 1)):
        ours = voc_ap(judged, 2, least, points, inclusive)
        np.testing.assert_allclose(ours, expected[:, column], rtol=0, atol=1e-12)


def test_the_area_is_near_cocos_101_points():
    right = np.random.default_rng(0).random(500) < np.linspace(0.95, 0.3, 500)
    many = curve(right, 400)
    assert 0 < abs(ap_area(many) - ap_101(many)) < 0.01
