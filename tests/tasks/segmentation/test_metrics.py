import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.segmentation.metrics import SegmentationMetric, histogram, mean
from retinue.tasks.segmentation.results import Segmentation


def names(k):
    return ClassMap(tuple(f"class{i}" for i in range(k)))


def collected(pairs, k, ids=None, boundary=True):
    """The metric of (truth, prediction) pairs of k classes."""
    metric = SegmentationMetric(names(k), boundary)
    for id, (truth, predicted) in zip(ids or map(str, range(len(pairs))), pairs):
        labels = np.asarray(predicted, np.uint8)
        result = Segmentation(id, labels, names(max(k, int(labels.max()) + 1)))
        metric.update([id], [result], [{"semantic": torch.from_numpy(np.asarray(truth, np.int64))}])
    return metric


def eroded(mask, width):
    """A mask (h, w) bool without the pixels within `width` of its boundary, the picture's border being one."""
    padded = np.pad(mask.astype(np.uint8), width)
    return cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[width:-width, width:-width] > 0


def by_brute_force(pairs, k):
    """`compute` from boolean masks, a class at a time."""
    counts = {name: [0] * k for name in ("both", "either", "true", "near_both", "near_either")}
    pixels = right = 0
    for truth, predicted in pairs:
        known = truth != 255
        pixels, right = pixels + known.sum(), right + (known & (truth == predicted)).sum()
        width = max(1, round(0.02 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
        for c in range(k):
            own, found = (truth == c) & known, (predicted == c) & known
            if not (own.any() or found.any()):
                continue
            counts["both"][c] += (own & found).sum()
            counts["either"][c] += (own | found).sum()
            counts["true"][c] += own.sum()
            own_near, found_near = (mask & ~eroded(mask | ~known, width) for mask in (own, found))
            counts["near_both"][c] += (own_near & found_near).sum()
            counts["near_either"][c] += (own_near | found_near).sum()

    def shares(part, whole):
        return [a / b if b else math.nan for a, b in zip(counts[part], counts[whole])]

    def over_classes(values):
        values = [value for value in values if value == value]
        return math.fsum(values) / len(values) if values else math.nan

    iou, accuracy = shares("both", "either"), shares("both", "true")
    boundary = shares("near_both", "near_either")
    weighted = math.fsum(int(n) * v for n, v in zip(counts["true"], iou) if n)
    figures = {
        "miou": over_classes(iou),
        "pixel_accuracy": right / pixels if pixels else math.nan,
        "class_accuracy": over_classes(accuracy),
        "fwiou": weighted / pixels if pixels else math.nan,
        "boundary_iou": over_classes(boundary),
    }
    for figure, values in (("miou", iou), ("class_accuracy", accuracy), ("boundary_iou", boundary)):
        figures |= {f"{figure}/class{c}": values[c] for c in range(k)}
    return figures


def draw_pair(rng, k, side=48):
    """A truth with ignored pixels and a prediction, of few or many of k classes, in patches, noisy, or both."""
    height, width = rng.integers(1, side, 2)
    shown = rng.choice(k, rng.integers(1, k + 1), replace=False).astype(np.uint8)
    cells = rng.choice(shown, tuple(rng.integers(1, 8, 2)))
    truth = cv2.resize(cells, (int(width), int(height)), interpolation=cv2.INTER_NEAREST)
    predicted = np.roll(truth, rng.integers(-3, 4, 2), (0, 1))
    wrong = rng.random(truth.shape) < rng.choice([0, 0.1, 1])
    predicted = np.where(wrong, rng.integers(k, size=truth.shape), predicted).astype(np.uint8)
    ignored = rng.random(truth.shape) < rng.choice([0, 0.1, 0.9, 1], p=[0.4, 0.3, 0.25, 0.05])
    return np.where(ignored, 255, truth).astype(np.uint8), predicted


def equal(one, two):
    """Whether figures are the same to the last bit and in the same order."""
    return list(one) == list(two) and all(
        a == b or (a != a and b != b) for a, b in zip(one.values(), two.values())
    )


def test_by_hand():
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]])
    predicted = np.array([[0, 1, 1, 1], [0, 0, 2, 0]])
    metric = collected([(truth, predicted)], 4)
    assert metric.confusion.tolist() == [[3, 1, 0, 0], [0, 2, 1, 0], [0] * 4, [0] * 4]
    assert metric.confusion.dtype == np.int64 and len(metric) == 1
    values = metric.compute()
    assert list(values)[:5] == ["miou", "pixel_accuracy", "class_accuracy", "fwiou", "boundary_iou"]
    assert list(values)[5:] == [
        f"{figure}/class{c}" for figure in ("miou", "class_accuracy", "boundary_iou") for c in range(4)
    ]
    assert [values[f"miou/class{c}"] for c in range(3)] == [3 / 4, 2 / 4, 0]
    assert values["miou"] == pytest.approx((3 / 4 + 2 / 4 + 0) / 3) and math.isnan(values["miou/class3"])
    assert values["pixel_accuracy"] == 5 / 7
    assert values["class_accuracy"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert values["fwiou"] == pytest.approx((4 * 3 / 4 + 3 * 2 / 4) / 7)
    assert values["boundary_iou"] == values["miou"], "all pixels are near the picture's border"


def test_1000_random_pairs_are_equal_to_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        k = int(rng.choice([1, 2, 3, 5, 11, 21, 255], p=[0.1, 0.2, 0.2, 0.2, 0.15, 0.1, 0.05]))
        pairs = [draw_pair(rng, k, int(rng.choice([40, 200], p=[0.9, 0.1])))]
        assert equal(collected(pairs, k).compute(), by_brute_force(pairs, k))


@given(st.integers(0, 10**6), st.integers(0, 4), st.sampled_from([1, 2, 11, 255]))
def test_sets_of_pictures_are_equal_to_brute_force(seed, n, k):
    rng = np.random.default_rng(seed)
    pairs = [draw_pair(rng, k, 20) for _ in range(n)]
    assert equal(collected(pairs, k).compute(), by_brute_force(pairs, k))


@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(0, 5))
def test_merged_processes_give_exactly_the_figures_of_one(seed, n, m):
    rng = np.random.default_rng(seed)
    pairs, ids = [draw_pair(rng, 7, 12) for _ in range(n + m)], [str(i) for i in rng.permutation(n + m)]
    whole = collected(pairs, 7, ids)
    merged, other = (
        pickle.loads(pickle.dumps(collected(pairs[p], 7, ids[p]))) for p in (slice(n, None), slice(n))
    )
    merged.merge(other)
    assert equal(whole.compute(), merged.compute()) and (whole.counts == merged.counts).all()
    assert len(merged) == n + m and merged.ids == whole.ids


def test_a_perfect_prediction_has_1_everywhere_whatever_is_ignored():
    rng = np.random.default_rng(1)
    truth, _ = draw_pair(rng, 5, 200)
    truth[10:14] = 255
    predicted = np.where(truth == 255, rng.integers(5, size=truth.shape), truth)
    values = collected([(truth, predicted)], 5).compute()
    assert {value for value in values.values() if value == value} == {1.0}
    assert values["miou"] == 1 and values["boundary_iou"] == 1


def test_what_is_predicted_at_ignored_pixels_does_not_matter():
    truth, predicted = draw_pair(np.random.default_rng(2), 5, 200)
    truth[:, 5:9] = 255
    other = np.where(truth == 255, 255, predicted)
    one, two = (collected([(truth, each)], 5) for each in (predicted, other))
    assert (one.counts == two.counts).all()


def test_boundary_iou_sees_an_edge_that_miou_hardly_does():
    truth, predicted = np.zeros((400, 400), np.uint8), np.zeros((400, 400), np.uint8)
    truth[100:300, 100:300], predicted[106:306, 100:300] = 1, 1
    values = collected([(truth, predicted)], 2).compute()
    assert values["miou"] > 0.93 and values["boundary_iou"] < 0.75


def test_without_boundaries_the_other_figures_are_the_same():
    pairs = [draw_pair(np.random.default_rng(3), 5)]
    full, plain = collected(pairs, 5).compute(), collected(pairs, 5, boundary=False).compute()
    assert plain == pytest.approx({k: v for k, v in full.items() if "boundary" not in k}, nan_ok=True, abs=0)


@pytest.mark.parametrize("pairs", [[], [(np.full((4, 5), 255), np.zeros((4, 5)))]])
def test_nothing_is_nan_and_says_so(pairs):
    metric = collected(pairs, 3)
    assert all(math.isnan(value) for value in metric.compute().values())
    assert metric.notes() == ["n/a: no pixel has a true class."]
    assert metric.confusion.shape == (3, 3) and not metric.confusion.any()


def test_notes_name_the_classes_that_have_no_figure():
    truth, predicted = np.zeros((50, 50)), np.zeros((50, 50))
    truth[10:40, 10:40] = 255
    truth[25, 25] = 3  # with nothing but ignored pixels around it
    predicted[0, 0], predicted[25, 25] = 2, 3
    notes = collected([(truth, predicted)], 5).notes()
    assert [any(f"class{c}" in note for note in notes) for c in range(5)] == [False, True, True, True, True]
    absent, untrue, enclosed = notes
    assert "class1, class4" in absent and "class2" in untrue and "class3" in enclosed
    assert "boundary_iou is n/a" in enclosed and "class_accuracy" in untrue
    assert len(collected([(truth, predicted)], 5, boundary=False).notes()) == 2
    assert collected([(np.eye(4), np.eye(4))], 2).notes() == []


def test_notes_do_not_list_a_hundred_classes():
    (note,) = collected([(np.zeros((2, 2)), np.zeros((2, 2)))], 150).notes()
    assert "class10 and 139 more" in note


def test_the_same_picture_twice_is_refused():
    pairs = [(np.zeros((2, 2)), np.zeros((2, 2)))]
    metric = collected(pairs, 2, ["a"])
    with pytest.raises(ValueError, match="'a' was evaluated before"):
        metric.update(
            ["a"],
            [Segmentation("a", np.zeros((2, 2), np.uint8), metric.classes)],
            [{"semantic": torch.zeros(2, 2)}],
        )
    with pytest.raises(ValueError, match=r"evaluated twice: \['a'\]"):
        metric.merge(collected(pairs, 2, ["a"]))
    assert metric.confusion.sum() == 4


def test_another_size_than_the_truth_is_named():
    with pytest.raises(DataError, match=r"a\.png: the truth is 5x4 pixels .* the prediction 4x5"):
        collected([(np.zeros((4, 5)), np.zeros((5, 4)))], 2, ["a.png"])


@pytest.mark.parametrize("value", [-1, 3, 254, 256, 258, 70_000])
def test_values_outside_the_classes_are_named(value):
    truth = np.array([[0, 1], [value, 255]])
    with pytest.raises(DataError, match=rf"a\.png: the truth has values \[{value}\], .* 3 classes"):
        collected([(truth, np.zeros((2, 2)))], 3, ["a.png"])


@pytest.mark.parametrize("value", [3, 255])
def test_predictions_outside_the_classes_are_named_where_they_count(value):
    predicted = np.array([[value, 0], [0, 0]])
    with pytest.raises(DataError, match=rf"a\.png: the prediction has values \[{value}\]"):
        collected([(np.zeros((2, 2)), predicted)], 3, ["a.png"])
    collected([(np.where(predicted, 255, 0), predicted)], 3, ["a.png"])


def test_counts_beyond_float32_are_exact():
    side = 4097  # squared it is odd and above 2 ** 24
    labels = np.zeros((side, side), np.uint8)
    assert histogram([labels, labels], (2, 2)).tolist() == [[side**2, 0], [0, 0]]
    assert int(np.float32(side**2)) != side**2


def test_a_large_picture_is_counted_in_parts(monkeypatch):
    pairs = [draw_pair(np.random.default_rng(4), 5, 100)]
    whole = collected(pairs, 5).counts
    monkeypatch.setattr("retinue.tasks.segmentation.metrics.EXACT", 100)
    assert (collected(pairs, 5).counts == whole).all() and pairs[0][0].size > 100


def test_views_with_other_strides_are_read_as_they_look():
    truth, predicted = draw_pair(np.random.default_rng(5), 5)
    straight = collected([(truth, predicted)], 5).counts
    turned = collected([(np.rot90(truth), np.rot90(predicted))], 5).counts
    assert (straight == turned).all()


def test_the_mean_does_not_depend_on_the_order():
    values = np.random.default_rng(6).random(1000).tolist()
    assert mean(values) == mean(values[::-1]) and math.isnan(mean([])) and mean([math.nan, 2.0]) == 2
