"""What R-CNN fits: the SVM of all negatives from the hard ones alone, and the ridge regression's own solution."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from retinue.datasets.targets import DataError
from retinue.tasks.detection import rcnn_fit
from retinue.tasks.detection.rcnn_fit import decision_values, fit_boxes, fit_svms, scale_of

CLASSES, DIMENSIONS = 2, 6


def regions(count: int = 4000, objects: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, truth and overlaps: objects of two classes about their centres, background about another one."""
    rng = np.random.default_rng(0)
    truth = np.full(count, -1)
    truth[: 2 * objects] = np.arange(2 * objects) % CLASSES
    centres = rng.normal(size=(CLASSES + 1, DIMENSIONS)) * 1.5
    features = centres[truth] + rng.normal(size=(count, DIMENSIONS))
    overlaps = np.where(truth[:, None] == np.arange(CLASSES), 1.0, rng.uniform(0, 0.35, (count, CLASSES)))
    return features.astype(np.float32), truth, overlaps.astype(np.float32)


def of_all_negatives(features: np.ndarray, truth: np.ndarray, overlaps: np.ndarray, c: int) -> LinearSVC:
    rows = np.flatnonzero((truth == c) | (overlaps[:, c] < 0.3))
    machine = LinearSVC(
        C=1e-3, loss="hinge", class_weight={True: 2.0}, intercept_scaling=10, max_iter=100_000, tol=1e-6
    )
    return machine.fit(features[rows].astype(np.float64) * scale_of(features), truth[rows] == c)


def test_hard_negatives_give_the_svm_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rcnn_fit, "FIRST", 50)
    monkeypatch.setattr(rcnn_fit, "MORE", 100)
    features, truth, overlaps = regions()
    said: list[str] = []
    weight, bias = fit_svms(features, truth, overlaps, say=said.append)
    for c in range(CLASSES):
        whole = of_all_negatives(features, truth, overlaps, c)
        expected = whole.decision_function(features.astype(np.float64) * scale_of(features))
        found = decision_values(features, weight, bias)[:, c]
        np.testing.assert_allclose(found, expected, atol=0.02)
    assert said[-1].endswith(", 0 of them new") and 2 < len(said) < rcnn_fit.ROUNDS
    kept = int(said[-1].split(": ")[1].split()[0])
    assert kept < (overlaps < 0.3).sum() / 2  # most of them are not needed


def test_the_hardest_that_are_left_out_are_added() -> None:
    values = np.array([-2, -0.5, 0.3, -1.1, 0.9, 0.2], np.float32)
    negative = np.array([True, True, True, True, False, True])
    hard = rcnn_fit._hard(values, negative, chosen=np.array([5]))
    assert hard.tolist() == [2, 1]


def test_overlaps_between_are_neither() -> None:
    """Their features may be anything: the SVM is the same."""
    features, truth, overlaps = regions()
    between = (overlaps[:, 0] >= 0.3) & (truth != 0)
    assert between.sum() > 100
    changed = features.copy()
    changed[between] = features[between][::-1]  # as long on average as before
    alone = np.full_like(overlaps, 1.0)
    alone[:, 0] = overlaps[:, 0]
    one, two = (fit_svms(f, np.where(truth == 0, 0, -1), alone)[0][0] for f in (features, changed))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_classes_without_examples_and_without_negatives() -> None:
    features, truth, overlaps = regions()
    truth[truth == 1] = -1
    weight, bias = fit_svms(features, truth, overlaps)
    assert (weight[1] == 0).all() and bias[1] == rcnn_fit.NEVER and bias[0] > rcnn_fit.NEVER
    weight, bias = fit_svms(features[:3], np.array([0, 0, 1]), np.ones((3, 2), np.float32))
    assert (weight == 0).all() and bias.tolist() == [1, 1]


def test_mining_that_does_not_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rcnn_fit, "ROUNDS", 2)
    monkeypatch.setattr(rcnn_fit, "FIRST", 5)
    monkeypatch.setattr(rcnn_fit, "MORE", 2)
    said: list[str] = []
    fit_svms(*regions(), say=said.append)
    assert "still find hard negatives after 2 rounds" in said[-1]


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_boxes_are_the_ridge_regression(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rcnn_fit, "ROWS", 64)  # in several pieces
    rng = np.random.default_rng(0)
    features = rng.normal(1, 1, (500, DIMENSIONS)).astype(kind)
    matched = rng.integers(-1, CLASSES, 500)
    codes = (features[:, :4] * 0.1 + rng.normal(0, 0.1, (500, 4)) + 0.3).astype(np.float32)
    weight, bias = fit_boxes(features, matched, codes, CLASSES + 1, ridge=40.0)
    assert weight.shape == (4 * (CLASSES + 1), DIMENSIONS) and bias.shape == (4 * (CLASSES + 1),)
    scale = scale_of(features)
    for c in range(CLASSES):
        x = features[matched == c].astype(np.float64)
        theirs = Ridge(alpha=40.0).fit(x * scale, codes[matched == c].astype(np.float64))
        mine = x @ weight[4 * c : 4 * c + 4].T + bias[4 * c : 4 * c + 4]
        np.testing.assert_allclose(mine, theirs.predict(x * scale), atol=1e-7)
    assert not weight[-4:].any() and not bias[-4:].any()  # nobody's: the region itself


@pytest.mark.parametrize("features", [np.zeros((0, 3)), np.zeros((4, 3)), np.full((4, 3), np.inf)])
def test_features_that_say_nothing_are_refused(features: np.ndarray) -> None:
    with pytest.raises(DataError, match="mean length"):
        fit_boxes(features, np.zeros(len(features), int), np.zeros((len(features), 4)), 1)


def test_the_mean_length_is_twenty() -> None:
    features = np.array([[3, 4], [0, 15]], np.float16)
    assert scale_of(features) == pytest.approx(2)
