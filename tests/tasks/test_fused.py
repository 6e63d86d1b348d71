"""A model made ready for prediction answers as the model does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from retinue.backbones import build
from retinue.backbones.onednn import FusedConv2d, FusedLinear
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import collate
from retinue.tasks import find
from retinue.tasks.fused import fused_model
from retinue.tasks.task import Model

SMALL = {
    "pyramid_channels": 16, "sampled": 16, "proposals": (60, 20), "mask_width": 8, "keypoint_width": 8,
    "keypoint_depth": 2, "score_threshold": 0.0, "width": 16,
}  # fmt: skip
CASES = {n: (n, {}, find.find(n).recipe(False).get("backbone", "resnet18")) for n in find.names()} | {
    "mean and max": ("classification.classification", {"head": "mean_max"}, "mobilenet_v3_small"),
    "published SqueezeNet": ("classification.classification", {"head": "published"}, "squeezenet1_1"),
    "four convolutions": ("detection.faster_rcnn", {"head": "conv", "rpn_depth": 2}, "mobilenet_v3_small"),
    "res5 per region": ("detection.mask_rcnn", {"pyramid": False, "head": "c4"}, "resnet18"),
    # without suppression: of nearly equal scores it leaves one or the other
    "detection.yolox": ("detection.yolox", {"nms_iou": 1.0}, "csp_darknet_nano"),
    "norm in the masks": ("detection.mask_rcnn", {"mask_norm": True}, "resnet18"),
}


def batch(size=64):
    samples = []
    for sample in Scenes(3, size):
        boxes = sample.targets["boxes"]
        samples.append(replace(sample, inputs={"proposals": boxes + 1}))
    return collate(samples, 0.0)[0]


def make(case):
    torch.manual_seed(0)
    name, settings, trunk = CASES[case]
    task = find.find(name)
    classes = replace(Scenes.classes, keypoints={"names": ["a", "b"], "pairs": [], "sigmas": [0.1] * 2})
    settings = {key: value for key, value in SMALL.items() if key in find.settings_of(name)} | settings
    backbone = task.trunk_for(build(trunk), settings)
    model = Model(backbone, {"it": task(backbone, classes, **settings)}).eval()
    with torch.no_grad():
        for parameter in model.tasks.parameters():  # far from the small values that predictors begin with
            parameter.mul_(2)
    return model


def numbers(result):
    """All arrays of a result."""
    arrays = [value for value in vars(result).values() if isinstance(value, np.ndarray)]
    masks = getattr(result, "masks", None)
    return arrays + ([masks.probabilities] if masks is not None else [])


def in_order(ours, theirs):
    """Our arrays, the rows of detections in the order of theirs: rounding exchanges those of nearly equal scores."""
    arrays, expected = numbers(ours), numbers(theirs)
    if not hasattr(theirs, "boxes") or ours.boxes.shape != theirs.boxes.shape or not len(theirs.boxes):
        return arrays, expected
    rows = [np.column_stack([r.boxes, 1e3 * r.scores, 1e3 * r.labels]) for r in (ours, theirs)]
    order = np.abs(rows[0] - rows[1][:, None]).max(2).argmin(1)
    assert len(set(order)) == len(order)
    return [array[order] for array in arrays], expected


@pytest.mark.parametrize("case", CASES)
def test_the_same_answers_and_the_original_as_it_was(case):
    model, pictures = make(case), batch()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model.predict(pictures)["it"]
    fast = fused_model(model)
    for ours, theirs in zip(fast.predict(pictures)["it"], expected, strict=True):
        assert numbers(theirs)
        for a, b in zip(*in_order(ours, theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=5e-3)
    layers = [m for m in fast.tasks.modules() if isinstance(m, FusedConv2d | FusedLinear)]
    assert layers
    fused_model(model, torch.bfloat16)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[key], before[key]) for key in before)
    assert all(after[key].dtype == before[key].dtype for key in before)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_answers_without_autocast(case):
    model, pictures = make(case), batch()
    results = fused_model(model, torch.bfloat16).predict(pictures)["it"]
    assert len(results) == len(pictures)
    for result in results:
        assert all(np.isfinite(array).all() for array in numbers(result))
    if case == "classification.classification":
        expected = [result.probabilities for result in model.predict(pictures)["it"]]
        np.testing.assert_allclose([r.probabilities for r in results], expected, atol=0.05)
