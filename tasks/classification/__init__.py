"""Classification: one label a picture."""

from retinue.tasks.classification.classification import Classifier
from retinue.tasks.classification.draw import draw_bars, draw_batch, draw_predictions
from retinue.tasks.classification.fit import Shots, few_shot_curve, few_shot_subset, fit_linear
from retinue.tasks.classification.losses import balanced_weights, cross_entropy, mix_labels
from retinue.tasks.classification.metrics import Accuracy, calibration_error
from retinue.tasks.classification.plots import draw_confusion, draw_curve, draw_per_class
from retinue.tasks.classification.results import Classification

__all__ = [
    "Accuracy",
    "Classification",
    "Classifier",
    "Shots",
    "balanced_weights",
    "calibration_error",
    "cross_entropy",
    "draw_bars",
    "draw_batch",
    "draw_confusion",
    "draw_curve",
    "draw_per_class",
    "draw_predictions",
    "few_shot_curve",
    "few_shot_subset",
    "fit_linear",
    "mix_labels",
]
