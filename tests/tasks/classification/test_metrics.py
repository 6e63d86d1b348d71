import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks.classification import Accuracy, Classification, calibration_error


def names(k):
    return ClassMap(tuple(f"class{i}" for i in range(k)))


def collected(probabilities, labels, ids=None):
    metric = Accuracy(names(probabilities.shape[1]))
    ids = ids or [f"{i}.jpg" for i in range(len(labels))]
    results = [Classification(id, row, metric.classes) for id, row in zip(ids, probabilities)]
    metric.update(ids, results, [{"label": torch.tensor(int(label))} for label in labels])
    return metric


def draws(seed, n, k):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(k), n).astype(np.float32), rng.integers(k, size=n)


def test_by_hand():
    probabilities = np.array([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [1, 0]], np.float32)
    metric = collected(probabilities, [0, 1, 1, 1])
    values = metric.compute()
    assert list(values) == ["top1", "mean_class_accuracy", "loss", "ece", "top1/class0", "top1/class1"]
    assert values["top1"] == 0.5 and values["top1/class0"] == 1 and values["top1/class1"] == 1 / 3
    assert values["mean_class_accuracy"] == pytest.approx(2 / 3)
    tiny = float(np.finfo(np.float32).tiny)
    assert values["loss"] == pytest.approx(-(2 * math.log(0.75) + math.log(0.5) + math.log(tiny)) / 4)
    # 0.75 twice and right: gap 0.5 in sum; 0.5 and wrong: 0.5; 1.0 and wrong: 1
    assert values["ece"] == pytest.approx((0.5 + 0.5 + 1) / 4)
    assert metric.confusion().tolist() == [[1, 0], [2, 1]] and metric.confusion().dtype == np.int64
    assert metric.per_class() == {"class0": 1.0, "class1": 1 / 3}


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(6, 30))
def test_parity_with_scikit_learn(seed, n, k):
    probabilities, labels = draws(seed, n, k)
    metric, predicted = collected(probabilities, labels), probabilities.argmax(1)
    values = metric.compute()
    assert values["top1"] == pytest.approx(sklearn.accuracy_score(labels, predicted), abs=1e-12)
    top5 = sklearn.top_k_accuracy_score(labels, probabilities, k=5, labels=range(k))
    assert values["top5"] == pytest.approx(top5, abs=1e-12)
    recall = sklearn.recall_score(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
    )
    assert values["mean_class_accuracy"] == pytest.approx(recall, abs=1e-12)
    assert (metric.confusion() == sklearn.confusion_matrix(labels, predicted, labels=range(k))).all()
    assert values["loss"] == pytest.approx(-np.log(probabilities[np.arange(n), labels]).mean(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_mean_class_accuracy_is_the_balanced_accuracy_of_scikit_learn():
    probabilities, labels = draws(5, 50, 8)
    found = collected(probabilities, labels).compute()["mean_class_accuracy"]
    assert found == pytest.approx(sklearn.balanced_accuracy_score(labels, probabilities.argmax(1)))


@given(st.integers(0, 10_000), st.integers(0, 20), st.integers(0, 20))
def test_merged_processes_give_exactly_the_figures_of_one(seed, n, m):
    probabilities, labels = draws(seed, n + m, 7)
    ids = [f"{i}.jpg" for i in np.random.default_rng(seed).permutation(n + m)]
    whole = collected(probabilities, labels, ids)
    parts = [collected(probabilities[p], labels[p], ids[p]) for p in (slice(n, None), slice(0, n))]
    merged = pickle.loads(pickle.dumps(parts[0]))
    merged.merge(pickle.loads(pickle.dumps(parts[1])))
    one, two = whole.compute(), merged.compute()
    assert list(one) == list(two) and all(
        a == b or (a != a and b != b) for a, b in zip(one.values(), two.values())
    )
    assert (whole.confusion() == merged.confusion()).all() and len(merged) == n + m


def test_nothing_is_nan_and_does_not_crash():
    metric = Accuracy(names(6))
    assert all(math.isnan(value) for value in metric.compute().values())
    assert metric.confusion().sum() == 0 and metric.confusion().shape == (6, 6)
    assert all(math.isnan(value) for value in metric.per_class().values())


def test_one_class():
    values = collected(np.ones((3, 1), np.float32), [0, 0, 0]).compute()
    assert values["top1"] == 1 and values["loss"] == 0 and values["ece"] == 0


def test_class_figures_are_left_out_where_they_are_many():
    values = Accuracy(names(21)).compute()
    assert list(values) == ["top1", "top5", "mean_class_accuracy", "loss", "ece"]


def test_the_first_of_equals_is_the_answer():
    probabilities = np.full((2, 6), 1 / 6, np.float32)
    values = collected(probabilities, [0, 5]).compute()
    assert values["top1"] == 0.5 and values["top5"] == 0.5


def test_the_same_picture_twice_is_refused():
    probabilities, labels = draws(0, 2, 3)
    metric = collected(probabilities, labels)
    with pytest.raises(ValueError, match=r"'1\.jpg' was evaluated before"):
        metric.update(
            ["1.jpg"], [Classification("1.jpg", probabilities[0], metric.classes)], [{"label": labels[0]}]
        )
    with pytest.raises(ValueError, match="evaluated twice"):
        metric.merge(collected(probabilities, labels))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes_are_named(label):
    probabilities, _ = draws(0, 1, 3)
    with pytest.raises(DataError, match=rf"0\.jpg: label {label} .* 3 classes"):
        collected(probabilities, [label])


def test_calibration_error_bins():
    # Two bins: 0.2 and 0.4, one of them right: |0.6 - 1|; 0.9 right: 0.1
    error = calibration_error(np.array([0.2, 0.4, 0.9]), np.array([True, False, True]), bins=2)
    assert error == pytest.approx((0.4 + 0.1) / 3)
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))
