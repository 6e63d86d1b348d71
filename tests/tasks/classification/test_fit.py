import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from retinue.datasets.targets import DataError
from retinue.tasks.classification import Shots, few_shot_curve, few_shot_subset, fit_linear
from retinue.tasks.classification.fit import DEFAULT, ENOUGH, NEVER, _choose, standardisation

METHODS = ("linear", "svm")


def logits(layer, features):
    with torch.no_grad():
        return layer.double()(torch.from_numpy(features))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_the_layer_answers_as_scikit_learn_does(blobs, method, k):
    features, labels = blobs(k, ENOUGH - 1, spread=2.0)
    model = (
        LogisticRegression(C=DEFAULT[method], max_iter=2000, tol=1e-6)
        if method == "linear"
        else LinearSVC(C=DEFAULT[method], max_iter=20000, random_state=0)
    )
    mean, scale = standardisation(features)
    model.fit((features - mean) / scale, labels)
    raw, _ = blobs(k, 50, seed=1, spread=3.0)
    unseen = (raw - mean) / scale
    found = logits(fit_linear(features, labels, k, method), raw)
    assert (found.argmax(1).numpy() == model.predict(unseen)).all()
    if method == "linear":
        np.testing.assert_allclose(found.softmax(1).numpy(), model.predict_proba(unseen), atol=1e-4)
    elif k > 2:
        np.testing.assert_allclose(found.numpy(), model.decision_function(unseen), atol=1e-4)
    else:
        np.testing.assert_allclose(
            (found[:, 1] - found[:, 0]).numpy(), model.decision_function(unseen), atol=1e-4
        )


def test_standardisation_by_hand():
    mean, scale = standardisation(np.array([[0.0, 5.0], [4.0, 5.0]]))  # variances 4 and 0, their mean 2
    assert mean.tolist() == [2, 5] and scale.tolist() == [3**0.5, 1.0]
    assert standardisation(np.ones((3, 2)))[1].tolist() == [1, 1]


def test_of_many_pictures_the_scale_is_the_deviation(blobs):
    features, _ = blobs(2, 5000)
    np.testing.assert_allclose(standardisation(features)[1], features.std(0), rtol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_too_few_pictures_to_choose_the_strength(blobs, method):
    assert _choose(*blobs(2, ENOUGH - 1), method, 0) == DEFAULT[method]


def test_noise_is_penalised_more_than_a_clear_case(blobs):
    noise = np.random.default_rng(0).normal(size=(80, 20))
    assert (
        _choose(noise, np.arange(80) % 2, "linear", 0) < 0.1 < _choose(*blobs(2, 40, spread=0.5), "linear", 0)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("present", [(0, 2), (0, 2, 3)])
def test_a_class_without_pictures_is_never_predicted(blobs, method, present):
    features, labels = blobs(len(present), 6)
    labels = np.array(present)[labels]
    layer = fit_linear(features, labels, 5, method)
    assert layer.weight.shape == (5, 12) and layer.bias[1].item() == NEVER == layer.bias[4].item()
    answers = logits(layer, 10 * features).argmax(1).numpy()
    assert set(answers) == set(present) and (logits(layer, features).argmax(1).numpy() == labels).mean() > 0.9


def test_a_constant_feature_does_no_harm(blobs):
    features, labels = blobs(3, 5)
    features[:, 4] = 7.0
    layer = fit_linear(features, labels, 3)
    assert torch.isfinite(layer.weight).all() and (logits(layer, features).argmax(1).numpy() == labels).all()


def test_one_class_alone_is_certain(blobs):
    features, labels = blobs(1, 4)
    layer = fit_linear(features, labels, 1)
    assert logits(layer, features).softmax(1).tolist() == [[1.0]] * 4


@pytest.mark.parametrize(
    ("features", "labels", "k", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), 2, "no picture"),
        (np.zeros((2, 3)), np.zeros(2, int), 2, "all pictures are of class 0"),
        (np.zeros((2, 3)), np.array([0, 2]), 2, r"labels 0\.\.2 do not fit 2 classes"),
        (np.zeros((2, 3)), np.array([-1, 1]), 2, r"labels -1\.\.1"),
        (np.array([[0.0], [np.nan]]), np.array([0, 1]), 2, "features of picture 1 are not finite"),
        (np.zeros((2, 3)), np.zeros(3, int), 2, r"\(2, 3\) and labels \(3,\)"),
        (np.eye(2), np.array([0, 1]), 2, "unknown method 'tree'"),
    ],
)
def test_what_cannot_be_fitted_is_named(features, labels, k, message):
    with pytest.raises(DataError, match=message):
        fit_linear(features, labels, k, "tree" if "tree" in message else "linear")


def test_shots_are_drawn_evenly_nested_and_by_seed():
    labels = np.array([0, 1, 1, 0, 1, 0, 0, 1, 2, 2, 2])
    few, more = few_shot_subset(labels, 1, seed=3), few_shot_subset(labels, 3, seed=3)
    assert np.bincount(labels[more]).tolist() == [3, 3, 3] and np.bincount(labels[few]).tolist() == [1, 1, 1]
    assert set(few) < set(more) and (np.sort(more) == more).all()
    assert any((few_shot_subset(labels, 1, seed) != few).any() for seed in range(5))
    with pytest.raises(DataError, match="class 2 has 3 training pictures, fewer than 4 shots"):
        few_shot_subset(labels, 4, 0)


def test_more_shots_help(blobs):
    train, test = blobs(3, 8, spread=1.5), blobs(3, 60, seed=1, spread=1.5)
    rows = few_shot_curve(*train, *test, shots=(1, 7), seeds=4)
    assert [row.shots for row in rows] == [1, 7] and all(len(row.values) == 4 for row in rows)
    assert rows[1].mean > rows[0].mean > 1 / 3
    assert rows == few_shot_curve(*train, *test, shots=(1, 7), seeds=4)


def test_rows_by_hand():
    assert Shots.of(2, [0.5, 1.0]) == (2, 0.75, pytest.approx(0.125**0.5), [0.5, 1.0])
    assert Shots.of(1, [0.5]).deviation == 0
