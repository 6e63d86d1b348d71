"""Features and a linear classifier: a last layer that is fitted, not descended (Donahue et al. 2013, DeCAF,
arXiv:1310.1531; Razavian et al. 2014, arXiv:1403.6382).

The classifier is scikit-learn's; what is left of it is an ordinary linear layer, so that predicting needs no
scikit-learn.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from retinue.datasets.targets import DataError

Method = Literal["linear", "svm"]

STRENGTHS = {"linear": np.logspace(-5, 1, 7), "svm": np.logspace(-6, 0, 7)}
"""Inverse regularisation C that cross-validation chooses from."""
DEFAULT = {"linear": 1e-2, "svm": 1e-3}
"""C where the pictures are too few to choose one."""
ENOUGH = 8
"""Pictures in the smallest class from which on C is chosen."""
PRIOR = 2
"""Pictures that the mean of all variances counts for in each feature's own."""
NEVER = -1e4
"""Logit of a class that has no training picture."""


def fit_linear(
    features: np.ndarray, labels: np.ndarray, classes_count: int, method: Method = "linear", seed: int = 0
) -> nn.Linear:
    """A linear layer (d -> classes_count) fitted to features (n, d) float and labels (n,) int, index from 0.

    "linear" is multinomial logistic regression: the softmax of the layer's outputs is its probability. "svm" is
    the linear support vector machine, one class against the others: the outputs are its decision values. Features
    are standardised (`standardisation`), and that is folded into the layer. C is chosen by stratified
    cross-validation on these pictures alone where every class has 8 of them. Two classes get two outputs, half
    the decision value and its negative. A class without a picture is never predicted.

    Raises DataError if nothing can be fitted: no picture, one class among several, labels out of range,
    features that are not finite, or an unknown method.
    """
    if method not in STRENGTHS:
        raise DataError(f"unknown method {method!r}: use 'linear' or 'svm'")
    features, labels = np.asarray(features, dtype=np.float64), np.asarray(labels)
    present = _check(features, labels, classes_count)
    if len(present) == 1:
        return _layer(np.zeros((1, features.shape[1])), np.zeros(1))
    mean, scale = standardisation(features)
    model = _model(method, _choose(features, labels, method, seed), seed).fit(
        (features - mean) / scale, labels
    )
    weight, bias = model.coef_, np.atleast_1d(model.intercept_)
    if len(present) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    bias = bias - weight @ mean
    all_weight, all_bias = np.zeros((classes_count, weight.shape[1])), np.full(classes_count, NEVER)
    all_weight[present], all_bias[present] = weight, bias
    return _layer(all_weight, all_bias)


def _check(features: np.ndarray, labels: np.ndarray, classes_count: int) -> np.ndarray:
    """The classes that occur, in order."""
    if features.ndim != 2 or labels.shape != (len(features),):
        raise DataError(
            f"features {features.shape} and labels {labels.shape} do not fit: give (n, d) and (n,)"
        )
    if not np.isfinite(features).all():
        row = int(np.argwhere(~np.isfinite(features))[0, 0])
        raise DataError(
            f"the features of picture {row} are not finite: look at its pixels and at the weights"
        )
    present = np.unique(labels)
    if not len(present):
        raise DataError("there is no picture to fit a classifier to")
    if present[0] < 0 or present[-1] >= classes_count:
        raise DataError(
            f"labels {present[0]}..{present[-1]} do not fit {classes_count} classes (0 is the first)"
        )
    if len(present) == 1 and classes_count > 1:
        raise DataError(
            f"all pictures are of class {present[0]}: a classifier needs pictures of two classes at least"
        )
    return present


def standardisation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale, (d,) each, of features (n, d): (features - mean) / scale is what the classifier reads.

    The scale is the root of the variance with `PRIOR` more pictures that vary as the features do on average:
    plain deviations make every feature alike where there is one picture a class, and leave nothing to tell by
    (pairs of CIFAR-10 classes, MobileNetV2: 0.71 against 0.55 with one picture, equal from twenty on).
    """
    n, variances = len(features), features.var(0)
    scale = np.sqrt((n * variances + PRIOR * variances.mean()) / (n + PRIOR))
    return features.mean(0), np.where(scale > 0, scale, 1.0)


def _model(method: Method, strength: float, seed: int) -> Any:
    """scikit-learn's classifier, not fitted yet."""
    from sklearn.linear_model import LogisticRegression  # slow, and predicting does without
    from sklearn.svm import LinearSVC

    if method == "linear":
        return LogisticRegression(C=strength, max_iter=2000, tol=1e-6)
    return LinearSVC(C=strength, max_iter=20000, dual="auto", random_state=seed)


def _choose(features: np.ndarray, labels: np.ndarray, method: Method, seed: int) -> float:
    """The C of the best cross-validated log loss ("linear") or accuracy ("svm"); of equals the strongest."""
    from sklearn.model_selection import StratifiedKFold

    if np.unique(labels, return_counts=True)[1].min() < ENOUGH:
        return DEFAULT[method]
    scores = np.zeros(len(STRENGTHS[method]))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(features, labels):
        mean, scale = standardisation(features[train])
        known, unseen = ((features[rows] - mean) / scale for rows in (train, test))
        for i, strength in enumerate(STRENGTHS[method]):
            model = _model(method, strength, seed).fit(known, labels[train])
            scores[i] += _score(model, method, unseen, labels[test])
    return float(STRENGTHS[method][int(np.argmax(scores))])


def _score(model: Any, method: Method, features: np.ndarray, labels: np.ndarray) -> float:
    if method == "svm":
        return float((model.predict(features) == labels).mean())
    own = model.predict_log_proba(features)[np.arange(len(labels)), np.searchsorted(model.classes_, labels)]
    return float(own.mean())


def _layer(weight: np.ndarray, bias: np.ndarray) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


class Shots(NamedTuple):
    """Accuracy with so many training pictures a class, over several draws of them."""

    shots: int
    mean: float
    deviation: float
    """Standard deviation over the draws (n - 1); 0 for a single one."""
    values: list[float]

    @classmethod
    def of(cls, shots: int, values: Sequence[float]) -> "Shots":
        """From the accuracy of every draw."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return cls(shots, float(np.mean(values)), deviation, list(values))


def few_shot_curve(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    shots: Sequence[int] = (1, 2, 4, 6),
    seeds: int = 5,
    method: Method = "linear",
) -> list[Shots]:
    """Accuracy on the test pictures of classifiers fitted to `shots` training pictures of every class.

    features, test_features: (n, d), (m, d) float; labels, test_labels: (n,), (m,) int. Every row draws `seeds`
    subsets (Zeiler and Fergus 2013, arXiv:1311.2901, section 5.2). Raises DataError where a class has fewer
    pictures than the largest number of shots.
    """
    labels, test_labels = np.asarray(labels), np.asarray(test_labels)
    classes_count = int(max(labels.max(), test_labels.max())) + 1
    rows = []
    for count in shots:
        values = []
        for seed in range(seeds):
            chosen = few_shot_subset(labels, count, seed)
            layer = fit_linear(features[chosen], labels[chosen], classes_count, method, seed)
            with torch.no_grad():
                answers = (
                    layer(torch.from_numpy(np.asarray(test_features, dtype=np.float32))).argmax(1).numpy()
                )
            values.append(float((answers == test_labels).mean()))
        rows.append(Shots.of(count, values))
    return rows


def few_shot_subset(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Indices of `shots` pictures of every class that occurs, drawn by the seed; (shots * classes,) int64, sorted.

    The draws of one seed are nested: fewer shots are part of more. DataError where a class has too few pictures.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        pictures = generator.permutation(np.flatnonzero(labels == label))
        if len(pictures) < shots:
            raise DataError(f"class {label} has {len(pictures)} training pictures, fewer than {shots} shots")
        chosen.append(pictures[:shots])
    return np.sort(np.concatenate(chosen))
