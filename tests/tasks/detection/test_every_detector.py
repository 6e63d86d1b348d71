"""Every detector there is, by discovery: pictures without objects, slivers, crowds, other classes, broken weights."""

import numpy as np
import pytest
import torch
from detectors import ALL, THREE, batch, descend, sample, small

from retinue.datasets.targets import DataError
from retinue.tasks.detection.detector import Detector

OF_OBJECTS = {"box", "proposal_box", "centreness", "mask", "keypoint"}
"""Losses that only objects have."""

every_detector = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


@every_detector
def test_two_steps_without_objects_and_beside_others(kind: type[Detector]) -> None:
    model = small(kind)
    for losses in descend(model, *batch(sample([]), sample([]))):
        assert all(losses[name] == 0 for name in OF_OBJECTS & losses.keys()), losses
        assert OF_OBJECTS & losses.keys() or kind.FITTED  # boxes are learned by some loss, or fitted
        assert sum(losses.values()) > 0, losses
    for losses in descend(model, *batch(sample([]), sample(THREE)), steps=1):
        assert losses["box"] > 0 if "box" in losses else kind.FITTED
    pictures, _ = batch(sample([]), sample(THREE, (40, 90)))
    results = model.eval().predict(pictures)["it"]
    assert [result.size for result in results] == [(64, 64), (40, 90)]


@every_detector
def test_slivers_crowds_and_pictures_of_a_pixel(kind: type[Detector]) -> None:
    model = small(kind, score_threshold=0.0)
    slivers = [[3, 3, 3.004, 60], [10, 10, 11, 11], [0, 0, 1e-5, 1e-5], [0, 0, 64, 64], [5, 5, 5, 9]]
    pictures, targets = batch(
        sample(slivers),
        sample([[0, 0, 1, 1]], (1, 1)),
        sample([[-200, -200, 500, 300]], (1, 300), crowd=[True]),
        sample([], (90, 2)),
    )
    descend(model, pictures, targets)
    results = model.eval().predict(pictures)["it"]
    assert [result.size for result in results] == [(64, 64), (1, 1), (1, 300), (90, 2)]
    for result in results:
        assert (result.boxes[:, 2:] <= result.size[::-1]).all() and (result.boxes >= 0).all()


@every_detector
def test_a_picture_answers_alone_as_beside_others(kind: type[Detector]) -> None:
    """On the same canvas, to rounding: nothing of a neighbour reaches it."""
    model = small(kind, score_threshold=0.0).eval()
    together, _ = batch(sample(THREE), sample(THREE, (64, 50)))
    (alone,) = model.predict(together[:1])["it"]
    first, _ = model.predict(together)["it"]
    assert len(alone) and len(first) == len(alone)
    np.testing.assert_allclose(first.scores, alone.scores, rtol=0, atol=1e-5)


@every_detector
def test_classes_forgotten_are_new_last_layers(kind: type[Detector]) -> None:
    model = small(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.named_tasks["it"].forget_classes()
    after = model.state_dict()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert changed and all(name.startswith("tasks.it.") for name in changed)
    assert all(value.shape == after[name].shape for name, value in before.items())
    descend(model, *batch(sample(THREE)), steps=1)


@every_detector
def test_broken_weights_are_no_empty_picture(kind: type[Detector]) -> None:
    model = small(kind).eval()
    for parameter in model.named_tasks["it"].parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    with pytest.raises(DataError, match="NaN"):
        model.predict(batch(sample(THREE))[0])
