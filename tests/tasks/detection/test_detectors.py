"""Every detector, whole: pictures without objects, crowds, slivers, torchvision's losses, learning, and refusals."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN as TheirFasterRCNN
from torchvision.models.detection import KeypointRCNN as TheirKeypointRCNN
from torchvision.models.detection import MaskRCNN as TheirMaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from retinue.backbones import build
from retinue.datasets.scenes import Scenes
from retinue.datasets.targets import ClassMap, DataError, Pictures, Sample, Target, collate
from retinue.tasks.detection import published
from retinue.tasks.detection.fast_rcnn import FastRCNN
from retinue.tasks.detection.faster_rcnn import FasterRCNN
from retinue.tasks.detection.keypoint_rcnn import KeypointRCNN
from retinue.tasks.detection.mask_rcnn import MaskRCNN
from retinue.tasks.detection.region_heads import ConvHead, MLPHead, Res5Head, TopHead
from retinue.tasks.detection.regions import sample_regions
from retinue.tasks.task import Model
from retinue.tools.loader import View

POINTS = {"names": ["a", "b", "c"], "pairs": [[0, 1]], "sigmas": [0.1, 0.1, 0.1]}
CLASSES = ClassMap(("cat", "dog", "owl"), (3, 7, 90), POINTS)
KINDS: dict[str, Any] = {"fast": FastRCNN, "faster": FasterRCNN, "mask": MaskRCNN, "keypoint": KeypointRCNN}
FORMS: dict[str, tuple[str, dict[str, Any], type[nn.Module]]] = {
    "pyramid": ("resnet18", {"pyramid_channels": 16}, MLPHead),
    "conv": ("resnet18", {"pyramid_channels": 16, "head": "conv", "rpn_depth": 2, "mask_norm": True}, ConvHead),
    "c4": ("resnet18", {"pyramid": False}, Res5Head),
    "fc": ("lenet5", {"pyramid": False}, TopHead),
    "coarsest": ("mobilenet_v3_small", {"pyramid": False}, MLPHead),
}  # fmt: skip
"""Backbone, settings, and the head that they lead to."""
SMALL = {
    "sampled": 12, "proposals": (60, 12), "rpn_sampled": 32, "mask_width": 8, "keypoint_width": 8,
    "keypoint_depth": 2,
}  # fmt: skip
ALL = [
    *((kind, form) for kind in KINDS for form in ("pyramid", "conv", "fc")),
    ("mask", "c4"),
    ("faster", "coarsest"),
]
BOXES = {"box", "proposal_box", "mask", "keypoint"}
"""Losses that only objects have."""


def own(kind: type[FastRCNN], settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that the task has."""
    known = {name for base in kind.__mro__ for name in getattr(base.__init__, "__kwdefaults__", None) or ()}
    return {name: value for name, value in settings.items() if name in known}


def make(kind: str, form: str = "pyramid", classes: ClassMap = CLASSES, **more: Any) -> Model:
    torch.manual_seed(0)
    architecture, settings, head = FORMS[form]
    settings = own(KINDS[kind], {**SMALL, **settings, **more})
    backbone = KINDS[kind].trunk_for(build(architecture), settings)
    task = KINDS[kind](backbone, classes, **settings)
    assert isinstance(task.box_head, head)
    model = Model(backbone, {"it": task})
    model.freeze_unread()
    return model


def sample(boxes: Any, size: tuple[int, int] = (64, 64), id: str = "0", crowd: Any = None) -> Sample:
    """A noisy picture with these objects: full masks, keypoints at two corners and at the centre, proposals near."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    y, x = (np.arange(side) + 0.5 for side in size)
    inside = (boxes[:, :1] <= x) & (x < boxes[:, 2:3]), (boxes[:, 1:2] <= y) & (y < boxes[:, 3:])
    points = np.stack([boxes[:, :2], boxes[:, 2:], (boxes[:, :2] + boxes[:, 2:]) / 2], 1)
    rng = np.random.default_rng(len(boxes))
    targets = {
        "boxes": boxes,
        "box_labels": np.arange(len(boxes)) % 3,
        "crowd": np.zeros(len(boxes), bool) if crowd is None else np.array(crowd),
        "masks": inside[1][:, :, None] & inside[0][:, None],
        "keypoints": np.concatenate([points, np.full_like(points[..., :1], 2)], 2).astype(np.float32),
    }
    corner = rng.uniform(0, 0.5, (9, 2)) * size[::-1]
    others = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, (9, 2)) * size[::-1]], 1)
    proposals = np.concatenate([boxes + 0.5, others.astype(np.float32)])
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return Sample(id, image, targets, {"proposals": proposals})


def batch(*samples: Sample) -> tuple[Pictures, list[Target]]:
    return collate([s.with_(id=str(i)) for i, s in enumerate(samples)], divisor=32)


THREE = [[4, 4, 30, 40], [20, 10, 60, 50], [33.5, 2.25, 50, 20]]


def descend(
    model: Model, pictures: Pictures, targets: list[Target], steps: int = 2
) -> list[dict[str, float]]:
    """The losses of a few steps, all finite; every trained parameter has a gradient, and nothing breaks on the way."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)
    said = []
    for _ in range(steps):
        losses = model.train()(pictures, targets)
        said.append({name.removeprefix("it/"): value.item() for name, value in losses.items()})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()
    assert np.isfinite([list(losses.values()) for losses in said]).all(), said
    assert all(value.isfinite().all() for value in model.state_dict().values())
    return said


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


# torchvision's losses

LOSSES = {
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "objectness": "loss_objectness",
    "proposal_box": "loss_rpn_box_reg",
    "mask": "loss_mask",
    "keypoint": "loss_keypoint",
}
MANY = {"sampled": 10**5, "rpn_sampled": 10**6, "positive_fraction": 0.5, "proposals": (150, 40)}
"""Of so many sampled none is left out, and nothing is drawn by lot."""


def theirs(kind: str, classes: int) -> nn.Module:
    """torchvision's detector on a ResNet-18, which takes every anchor and every proposal into its losses."""
    settings: dict[str, Any] = {
        "rpn_batch_size_per_image": 2 * 10**6, "box_batch_size_per_image": 10**5, "box_positive_fraction": 0.5,
        "rpn_pre_nms_top_n_train": 150, "rpn_post_nms_top_n_train": 150, "min_size": 96, "max_size": 500,
    }  # fmt: skip
    if kind == "keypoint":
        settings["keypoint_head"] = KeypointRCNNHeads(256, (8, 8))
        settings["keypoint_predictor"] = KeypointRCNNPredictor(8, 3)
    network = {"faster": TheirFasterRCNN, "mask": TheirMaskRCNN, "keypoint": TheirKeypointRCNN}[kind]
    return network(_resnet_fpn_extractor(resnet18(), 5), classes + 1, **settings)


@pytest.mark.parametrize("kind", ["faster", "mask", "keypoint"])
def test_the_losses_are_torchvisions(kind: str) -> None:
    """Same weights, same pictures, one without objects: targets are assigned and losses normalised alike."""
    torch.manual_seed(3)
    network = theirs(kind, len(CLASSES))
    model = make(kind, classes=CLASSES, **MANY, pyramid_channels=256, mask_width=256)
    published.insert(model, network.state_dict(), "here")
    boxes = [[5, 8, 60, 90], [30, 4, 100, 70], [40.5, 30.25, 62, 49], [2, 60, 20, 90]]
    pictures, targets = batch(sample(boxes, (96, 128)), sample([], (96, 128)), sample(boxes[:2], (96, 128)))
    for part in (network.train(), model.train()):
        for module in part.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    given = [
        {
            "boxes": target["boxes"],
            "labels": target["box_labels"] + 1,
            "masks": target["masks"].to(torch.uint8),
            "keypoints": target["keypoints"],
        }
        for target in targets
    ]
    with torch.no_grad():
        expected = network(list(pictures.pixels), given)
        losses = {name.removeprefix("it/"): value for name, value in model(pictures, targets).items()}
    assert len(losses) == len(expected)
    for name, value in losses.items():
        assert value > 1e-3
        torch.testing.assert_close(value, expected[LOSSES[name]], rtol=1e-4, atol=1e-5)


# Learning


def learned(kind: str, form: str, steps: int, sampled: int = 64) -> tuple[dict[str, float], dict[str, float]]:
    """The figures on the three scenes that are learned, before and after so many steps."""
    scenes = Scenes(3, 64)
    model = make(kind, form, Scenes.classes, sampled=sampled, rpn_sampled=64, proposals=(200, 50))
    task = model.named_tasks["it"]
    view = View(scenes, task.eval_transform(64), task.target_keys())
    pictures, targets = collate([view[0, i] for i in range(3)], divisor=32)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
    figures = []
    for count in (0, steps):
        for _ in range(count):
            optimizer.zero_grad()
            torch.stack(list(model.train()(pictures, targets).values())).sum().backward()
            optimizer.step()
        metric = task.metric()
        metric.update(pictures.ids, model.eval().predict(pictures)["it"], targets)
        figures.append(metric.compute())
    return figures[0], figures[1]


def test_it_learns_a_few_scenes_by_heart() -> None:
    before, after = learned("faster", "pyramid", 30)
    assert before["box/AP50"] < 0.2 and after["box/AP50"] > 0.7 and after["box/AP"] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form", "steps", "sampled"),
    [("mask", "pyramid", 100, 64), ("faster", "c4", 50, 16), ("faster", "fc", 300, 64)],
)
def test_other_forms_learn_them_too(kind: str, form: str, steps: int, sampled: int) -> None:
    before, after = learned(kind, form, steps, sampled)
    for figure in {"box/AP50", "mask/AP50"} & after.keys():
        assert after[figure] > before[figure] + 0.4


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
