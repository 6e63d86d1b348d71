"""Every detector, whole: pictures without objects, crowds, slivers, other classes, and refusals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from detectors import CLASSES, KINDS, THREE, batch, descend, make, sample

from retinue.backbones import build
from retinue.datasets.targets import DataError
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.regions import sample_regions

ALL = [
    *((kind, form) for kind in KINDS for form in ("pyramid", "conv", "fc")),
    ("mask", "c4"),
    ("faster", "coarsest"),
]
BOXES = {"box", "proposal_box", "mask", "keypoint"}
"""Losses that only objects have."""


# Pictures without objects, crowds, slivers


@pytest.mark.parametrize(("kind", "form"), ALL)
def test_pictures_without_objects_and_beside_others(kind: str, form: str) -> None:
    model = make(kind, form)
    for losses in descend(model, *batch(sample([]), sample([]))):
        assert {losses[name] for name in BOXES & losses.keys()} == {0.0}
        assert losses["class"] > 0 and losses.get("objectness", 1) > 0
    for losses in descend(model, *batch(sample([]), sample(THREE)), steps=1):
        assert min(losses[name] for name in losses) > 0
    pictures, _ = batch(sample([]), sample(THREE, (40, 90)))
    results = model.eval().predict(pictures)["it"]
    assert [result.size for result in results] == [(64, 64), (40, 90)]


@pytest.mark.parametrize("kind", KINDS)
def test_crowds_are_neither_objects_nor_background(kind: str) -> None:
    """In a crowd over all of the picture nothing is sampled but what is outside; beside one, objects are learned."""
    model = make(kind, sampled=10**4, rpn_sampled=10**5)
    everything = [[-200, -200, 300, 300]]
    (losses,) = descend(model, *batch(sample(everything, crowd=[True])), steps=1)
    assert {losses[name] for name in BOXES & losses.keys()} == {0.0} and losses["class"] == 0
    pictures, targets = batch(sample([*THREE, [0, 0, 64, 64]], crowd=[False, False, False, True]))
    (losses,) = descend(model, pictures, targets, steps=1)
    assert min(losses.values()) > 0
    (regions,) = sample_regions([torch.tensor([[0.0, 0, 63, 63], [1, 1, 31, 40]])], targets, 512, 0.25, 0.5)
    assert regions.truth.tolist() == [0, 0, 1, 2] and regions.labels.tolist() == [1, 1, 2, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_slivers_and_pictures_of_a_pixel(kind: str) -> None:
    model = make(kind)
    slivers = [[3, 3, 3.004, 60], [10, 10, 11, 11], [0, 0, 1e-5, 1e-5], [0, 0, 64, 64], [5, 5, 5, 9]]
    pictures, targets = batch(
        sample(slivers),
        sample([[0, 0, 1, 1]], (1, 1)),
        sample([[0, 0, 300, 1]], (1, 300)),
        sample([], (90, 2)),
    )
    descend(model, pictures, targets)
    results = model.eval().predict(pictures)["it"]
    assert [result.size for result in results] == [(64, 64), (1, 1), (1, 300), (90, 2)]
    for result in results:
        assert (result.boxes[:, 2:] <= result.size[::-1]).all() and (result.boxes >= 0).all()
        assert result.masks is None or len(result.masks.rles()) == len(result)


def test_no_region_at_all_is_no_loss() -> None:
    model = make("fast")
    empty = sample([]).with_(inputs={"proposals": np.zeros((0, 4), np.float32)})
    assert descend(model, *batch(empty, empty)) == [{"class": 0.0, "box": 0.0}] * 2
    assert [len(result) for result in model.eval().predict(batch(empty, empty)[0])["it"]] == [0, 0]


def test_anchors_that_touch_no_object_are_no_objects() -> None:
    """With anchors so small and so far apart that a box lies between them, none stands for it."""
    model = make("faster", anchor_sizes=[2], pyramid_levels=["c5"], rpn_sampled=10**5)
    pictures, targets = batch(sample([[10, 10, 20, 20]]))
    (losses,) = descend(model, pictures, targets, steps=1)
    assert losses["proposal_box"] == 0 and losses["box"] > 0


# Other classes, and what is refused


@pytest.mark.parametrize("kind", KINDS)
def test_classes_forgotten_are_new_last_layers(kind: str) -> None:
    model = make(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.named_tasks["it"].forget_classes()
    after = model.state_dict()
    changed = {name.split(".")[2] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"box_predictor"} | {f"{kind}_predictor"} & {"mask_predictor", "keypoint_predictor"}
    assert all(value.shape == after[name].shape for name, value in before.items())
    descend(model, *batch(sample(THREE)), steps=1)


def refusals() -> list[tuple[str, str, dict[str, Any], str]]:
    numbers = {
        "positive_fraction": 1.5, "foreground_iou": -0.1, "score_threshold": 2, "nms_iou": float("nan"), "colour": 3,
        "sampled": 0, "detections": 0, "longest": 0.5,
    }  # fmt: skip
    return [
        *(("fast", "pyramid", {name: value}, rf"^{name}={value}: {name} is from ") for name, value in numbers.items()),
        ("fast", "pyramid", {"pyramid_channels": -1}, "pyramid_channels=-1: "),
        ("fast", "pyramid", {"scales": (1.0,)}, r"scales=\[1.0\]: two shares"),
        ("fast", "pyramid", {"scales": (1.2, 0.8)}, "0 < least <= most"),
        ("fast", "pyramid", {"pyramid_levels": ["c7"]}, r"pyramid_levels=c7: the backbone has .*pyramid=false"),
        ("fast", "coarsest", {"pyramid": True, "pyramid_levels": ["c3", "block9"]}, "the last one must be a c"),
        ("faster", "pyramid", {"head": "mpl"}, "head='mpl': use one of auto, mlp, conv, fc, c4"),
        ("faster", "pyramid", {"head": "c4"}, r"head='c4' needs a plain trunk \(pyramid=false\)"),
        ("faster", "coarsest", {"head": "c4"}, "whose last stage is c5, after c4: resnet50"),
        ("faster", "pyramid", {"head": "fc"}, r"head='fc' needs a plain trunk \(pyramid=false\) .* vgg16"),
        ("faster", "c4", {"head": "fc"}, "head='fc' needs a plain trunk"),
        ("faster", "pyramid", {"proposals": (0, 10)}, r"proposals=\[0, 10\].* at least 1"),
        ("faster", "pyramid", {"proposals": (10,)}, "proposals are two numbers"),
        ("faster", "pyramid", {"rpn_depth": 0}, "rpn_depth=0"),
        ("faster", "pyramid", {"rpn_sampled": 0}, "rpn_sampled=0"),
        ("faster", "pyramid", {"rpn_nms_iou": 1.5}, "rpn_nms_iou=1.5"),
        ("faster", "pyramid", {"rpn_score_threshold": -1}, "rpn_score_threshold=-1"),
        ("faster", "pyramid", {"anchor_scale": 0}, "anchor_scale=0: give one or more numbers above 0"),
        ("faster", "pyramid", {"anchor_sizes": []}, r"anchor_sizes=\[\]"),
        ("faster", "pyramid", {"anchor_sizes": [32, -1]}, r"anchor_sizes=\[32, -1\]"),
        ("faster", "pyramid", {"anchor_ratios": []}, r"anchor_ratios=\[\]"),
        ("faster", "pyramid", {"anchor_ratios": [1, 0]}, r"anchor_ratios=\[1, 0\]"),
        ("mask", "pyramid", {"mask_depth": 0}, "mask_depth=0: both are at least 1"),
        ("keypoint", "pyramid", {"keypoint_width": 0}, "keypoint_width=0"),
        ("keypoint", "c4", {}, "keypoint_rcnn has no form with res5 per region: use a pyramid, or head=mlp"),
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "form", "settings", "message"), refusals())
def test_settings_that_cannot_be_are_refused_with_the_remedy(
    kind: str, form: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make(kind, form, **settings)


def test_the_levels_of_a_pyramid_may_be_given_in_any_order() -> None:
    first, second = (make("faster", pyramid_levels=levels) for levels in (["c3", "c5"], ["c5", "c3"]))
    assert first.backbone.levels == second.backbone.levels
    assert first.named_tasks["it"].levels == second.named_tasks["it"].levels == ("p3", "p5", "p6")
    descend(second, *batch(sample(THREE)), steps=1)


def test_other_refusals() -> None:
    with pytest.raises(TypeError, match="sampeld"):
        FasterRCNN(build("lenet5"), CLASSES, sampeld=3, pyramid=False)
    with pytest.raises(DataError, match=r"\['cat', 'dog', 'owl'\] have no keypoints: give data"):
        make("keypoint", classes=replace(CLASSES, keypoints={}))
    pictures, targets = batch(sample(THREE).with_(inputs={}))
    for ask in (lambda m: m(pictures, targets), lambda m: m.predict(pictures)):
        with pytest.raises(DataError, match=r"reads the input 'proposals', which .* lack: .*faster_rcnn"):
            ask(make("fast"))


@pytest.mark.parametrize(
    "layer", ["rpn.head.cls_logits", "box_predictor.cls_score", "box_predictor.bbox_pred"]
)
def test_nan_is_no_picture_without_objects(layer: str) -> None:
    model = make("faster").eval()
    pictures, _ = batch(sample([]))
    assert model.predict(pictures)
    (task,) = model.named_tasks.values()
    with torch.no_grad():
        task.get_submodule(layer).bias.fill_(torch.nan)
    with pytest.raises(DataError, match="gives NaN"):
        model.predict(pictures)


def test_a_box_without_an_outline_teaches_no_mask() -> None:
    model = make("mask")
    pictures, targets = batch(sample(THREE))
    for target in targets:
        target["masks"][:] = False
    (losses,) = descend(model, pictures, targets, steps=1)
    assert losses["mask"] == 0 and losses["box"] > 0
