"""What R-CNN fits to the features of regions: a linear SVM and a box regressor for every class.

Girshick et al. 2014, arXiv:1311.2524, section 2.3 and appendices B and C; negatives are mined as in Felzenszwalb et
al. 2010 (PAMI 32:9), section 4.4. Features are read in pieces, so that they may lie on a disk, and only a class's
positives and its hard negatives are held at once.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np

from retinue.datasets.targets import DataError

LENGTH = 20.0
"""Features are scaled to this mean length, to which the strengths of regularisation belong (Girshick's code)."""
POSITIVE_WEIGHT = 2.0
"""A positive counts for so many negatives (Girshick's code)."""
BIAS = 10.0
"""The constant feature beside the others, which with them is regularised (Girshick's code)."""
MARGIN = -1.0
"""Negatives above it are hard: they cost something, and shape the SVM. Those below may be left out."""
EASY = -1.2
"""Negatives below it are dropped, until they are hard again."""
TOLERANCE = 1e-3
"""So far above the margin is not yet hard: the solver leaves its own vectors that far from it."""
FIRST, MORE = 2000, 2000
"""Negatives of a class that it begins with, drawn by lot, and the hardest that a round adds at most."""
ROUNDS = 20
NEVER = -1e4
"""Decision value of a class without an example."""
ROWS = 1 << 13
"""Features that are read at once."""


def fit_svms(
    features: np.ndarray,
    truth: np.ndarray,
    overlaps: np.ndarray,
    *,
    negative_iou: float = 0.3,
    strength: float = 1e-3,
    seed: int = 0,
    say: Callable[[str], object] = lambda line: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (classes, d) and biases (classes,) float64 of one linear SVM a class: its value is 1 at an object's
    margin and -1 at the background's.

    features: (r, d) float, of any type, of true boxes and proposals. truth: (r,) int64, the class of a true box, -1 for
    a proposal. overlaps: (r, classes), the largest IoU with a true box of each class. A class's positives are its true
    boxes; its negatives overlap those by less than `negative_iou`. strength: the C of the hinge loss.

    Each class begins with some of its negatives. Then those that are hard for it are added and those that are easy are
    dropped, until none that is left out costs anything: it is then the SVM of all negatives. `say` is told about every
    round. A class without positives has the value `NEVER` everywhere. Raises DataError where features are not finite.
    """
    classes, scale = overlaps.shape[1], scale_of(features)
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, NEVER)
    rng, negative = np.random.default_rng(seed), overlaps < negative_iou
    own = [np.flatnonzero(truth == c) for c in range(classes)]
    chosen = [_draw(rng, np.flatnonzero(negative[:, c])) for c in range(classes)]
    learning = [c for c in range(classes) if len(own[c])]
    for number in range(1, ROUNDS + 1):
        for c in learning:
            rows = np.concatenate([own[c], chosen[c]])
            weight[c], bias[c] = _svm(
                features[rows].astype(np.float64) * scale, np.arange(len(rows)) < len(own[c]), strength, seed
            )
        added = {}
        values = decision_values(features, weight * scale, bias)
        for c in learning:
            hard = _hard(values[:, c], negative[:, c], chosen[c])
            chosen[c] = np.concatenate([chosen[c][values[chosen[c], c] >= EASY], hard])
            added[c] = len(hard)
        learning = [c for c in learning if added[c]]
        say(f"  round {number}: {sum(map(len, chosen))} hard negatives, {sum(added.values())} of them new")
        if not learning:
            break
    else:
        say(f"  {len(learning)} SVMs still find hard negatives after {ROUNDS} rounds, and stay as they are")
    return weight * scale, bias


def _draw(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    return rng.permutation(rows)[:FIRST]


def _hard(values: np.ndarray, negative: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The hardest negatives, as rows, that are not among the chosen ones."""
    free = negative & (values > MARGIN + TOLERANCE)
    free[chosen] = False
    rows = np.flatnonzero(free)
    return rows[np.argsort(-values[rows], kind="stable")[:MORE]]


def _svm(features: np.ndarray, positive: np.ndarray, strength: float, seed: int) -> tuple[np.ndarray, float]:
    """Weight (d,) and bias of the SVM of features (n, d), of which some are `positive` (n,)."""
    from sklearn.svm import LinearSVC  # slow, and predicting does without

    if positive.all():
        return np.zeros(features.shape[1]), 1.0
    machine = LinearSVC(
        C=strength,
        loss="hinge",
        class_weight={True: POSITIVE_WEIGHT},
        intercept_scaling=BIAS,
        max_iter=10_000,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Liblinear failed to converge")  # of two that differ little, either
        machine.fit(features, positive)
    return machine.coef_[0], float(machine.intercept_[0])


def fit_boxes(
    features: np.ndarray, matched: np.ndarray, codes: np.ndarray, classes: int, ridge: float = 1000.0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (4 * classes, d) and biases (4 * classes,) float64 of ridge regressions from features to box codes.

    matched: (r,) int64, the class of the true box that a region stands for, or -1 where it stands for none. codes:
    (r, 4), which lead from the region to that box. ridge: lambda of equation 5. The bias is not regularised. A class
    without regions predicts codes of 0, the region itself. Raises DataError where features are not finite.
    """
    dimensions, scale = features.shape[1], scale_of(features)
    weight, bias = np.zeros((classes, 4, dimensions)), np.zeros((classes, 4))
    for c in np.unique(matched[matched >= 0]):
        rows = np.flatnonzero(matched == c)
        x_sum, y_sum = np.zeros(dimensions), np.zeros(4)
        square, product = np.zeros((dimensions, dimensions)), np.zeros((dimensions, 4))
        for part in (rows[start : start + ROWS] for start in range(0, len(rows), ROWS)):
            x, y = features[part].astype(np.float64) * scale, codes[part].astype(np.float64)
            x_sum, y_sum = x_sum + x.sum(0), y_sum + y.sum(0)
            square, product = square + x.T @ x, product + x.T @ y
        x_mean, y_mean = x_sum / len(rows), y_sum / len(rows)
        square -= len(rows) * np.outer(x_mean, x_mean)
        product -= len(rows) * np.outer(x_mean, y_mean)
        solution = np.linalg.solve(square + ridge * np.eye(dimensions), product)
        weight[c], bias[c] = solution.T * scale, y_mean - x_mean @ solution
    return weight.reshape(-1, dimensions), bias.reshape(-1)


def scale_of(features: np.ndarray) -> float:
    """What features (r, d) are multiplied with so that their mean length is `LENGTH`; DataError if it cannot be."""
    total = sum(float(np.linalg.norm(part, axis=1).sum()) for part in _pieces(features))
    mean = total / max(1, len(features))
    if not 0 < mean < np.inf:
        raise DataError(
            f"the features of {len(features)} regions have a mean length of {mean:g}: there must be proposals, and "
            f"weights that are not broken"
        )
    return LENGTH / mean


def decision_values(features: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(r, classes) float32, `features @ weight.T + bias`, piece by piece."""
    weight = weight.astype(np.float32)
    return np.concatenate([part @ weight.T + bias.astype(np.float32) for part in _pieces(features)])


def _pieces(features: np.ndarray) -> Iterator[np.ndarray]:
    """The features in pieces of `ROWS`, float32; at least one."""
    for start in range(0, max(1, len(features)), ROWS):
        yield np.asarray(features[start : start + ROWS], dtype=np.float32)
