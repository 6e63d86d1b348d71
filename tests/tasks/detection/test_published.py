"""The published detectors are torchvision's: same tensors in, same detections out."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection as theirs
from torchvision.models import resnet50
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from retinue.backbones.weights import WeightsError
from retinue.datasets.targets import Pictures, Sample, Transform, collate
from retinue.tasks import torchvision_weights
from retinue.tasks.detection import published
from retinue.tasks.detection.detector import Detector
from retinue.tasks.detection.results import Detections
from retinue.tasks.task import Model
from retinue.tools.bench_detection import finds_objects

SURVIVE = 50
"""Detections a picture without which a comparison says little."""


def plain(name: str, **settings: object) -> nn.Module:
    builder: Callable[..., nn.Module] = getattr(theirs, name)
    return builder(weights=None, weights_backbone=None, **settings)


def frozen(name: str, **settings: object) -> nn.Module:
    """As torchvision builds it for its first COCO weights: frozen batch norms without epsilon."""
    one_stage = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    levels: dict[str, Any] = {} if "rcnn" in name else one_stage
    trunk = _resnet_fpn_extractor(resnet50(norm_layer=FrozenBatchNorm2d), 3, **levels)
    network = {
        "fasterrcnn_resnet50_fpn": partial(theirs.FasterRCNN, num_classes=91),
        "maskrcnn_resnet50_fpn": partial(theirs.MaskRCNN, num_classes=91),
        "keypointrcnn_resnet50_fpn": partial(theirs.KeypointRCNN, num_classes=2),
        "retinanet_resnet50_fpn": partial(theirs.RetinaNet, num_classes=91),
    }[name](trunk, **settings)
    overwrite_eps(network, 0.0)
    return network


def batch(
    sizes: list[tuple[int, int]], seed: int = 0, prepare: Transform | None = None
) -> tuple[list[Tensor], Pictures]:
    """Random pictures as torchvision takes them, and the same on our canvas, or where they are prepared for it."""
    rng = np.random.default_rng(seed)
    samples = []
    for i, (height, width) in enumerate(sizes):
        small = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        image = small.repeat(16, 0).repeat(16, 1)[:height, :width]
        noise = rng.integers(0, 60, image.shape, dtype=np.uint8)
        samples.append(Sample(str(i), np.ascontiguousarray(image // 2 + noise)))
    pictures, _ = collate(samples, (0.485, 0.456, 0.406), 32)
    images = [p[:, :h, :w].contiguous() for p, (h, w) in zip(pictures.pixels, sizes)]
    if prepare is not None:
        light = [s.with_(image=image.permute(1, 2, 0).numpy()) for s, image in zip(samples, images)]
        pictures, _ = collate([prepare(s, rng, None) for s in light])
    return images, pictures


def compare(
    name: str, network: nn.Module, model: Model, sizes: list[tuple[int, int]], scores_to: float = 1e-4
) -> None:
    (task,) = model.named_tasks.values()
    square = isinstance(task, Detector) and task.square
    prepare = task.eval_transform(published.DETECTORS[name].imgsz) if square else None
    images, pictures = batch(sizes, prepare=prepare)
    scales = [torch.ones(4)] * len(sizes)
    if square:
        # The two ways to resize differ by some 1e-5, which random networks enlarge ten thousandfold: both get theirs.
        side = (pictures.pixels.shape[-2], pictures.pixels.shape[-1])
        resized = torch.cat(
            [nn.functional.interpolate(image[None], side, mode="bilinear") for image in images]
        )
        torch.testing.assert_close(pictures.pixels, resized, rtol=0, atol=5e-5)
        pictures.pixels, images = resized, list(resized)
        scales = [torch.tensor([w / side[1], h / side[0]] * 2) for h, w in sizes]
    with torch.no_grad():
        expected = network(images)
    for want, scale in zip(expected, scales):
        want["boxes"] *= scale
    (results,) = model.predict(pictures).values()
    for want, got in zip(expected, results):
        assert len(got) == len(want["boxes"]) >= SURVIVE
        order = pairing({key: value.numpy() for key, value in want.items()}, got, scores_to)
        if got.masks is not None:
            small = torch.from_numpy(got.masks.probabilities[order])[:, None]
            pasted = paste_masks_in_image(small, torch.from_numpy(got.boxes[order]), got.size)
            difference = (pasted - want["masks"]).abs()
            assert (difference > 1e-3).float().mean() < 1e-3  # where a box's last bit rounds to another pixel
        if got.keypoints is not None and got.keypoint_scores is not None:
            np.testing.assert_allclose(got.keypoints[order], want["keypoints"].numpy(), atol=0.01, rtol=0)
            scores = want["keypoints_scores"].numpy()
            np.testing.assert_allclose(
                got.keypoint_scores[order], scores, atol=scores_to * np.abs(scores).max()
            )


def pairing(want: dict[str, np.ndarray], got: Detections, scores_to: float) -> np.ndarray:
    """For each of theirs the one of ours that is the same; where scores agree only so far their order may not."""
    apart = np.abs(got.boxes[None] - want["boxes"][:, None]).max(2) / 0.01
    apart = np.maximum(apart, np.abs(got.scores[None] - want["scores"][:, None]) / scores_to)
    apart[np.array(got.classes.ids)[got.labels][None] != want["labels"][:, None]] = np.inf
    order = apart.argmin(1)
    assert apart.min(1).max() <= 1 and len(set(order)) == len(order)
    return order


def pair(name: str, eps: float | None, network: nn.Module, few: bool = True) -> tuple[nn.Module, Model]:
    """torchvision's detector, and ours with its weights; `few`: less than published of all, for the test's time."""
    seen = [(160, 192), (192, 160)]
    if not few and not hasattr(
        network, "roi_heads"
    ):  # enlarged, they are so smooth that others saturate every score
        seen = [(600, 640), (640, 600)]
    finds_objects(network.eval(), batch(seen, 7)[0])
    model = published.construct(name, eps)
    published.insert(model, network.state_dict(), "here")
    if few and hasattr(network, "roi_heads"):
        task: Any = next(iter(model.tasks.values()))
        network.roi_heads.detections_per_img = task.detections = 60
        network.rpn._pre_nms_top_n["testing"] = network.rpn._post_nms_top_n["testing"] = 300
        task.rpn.top = (2000, 300)
    return network, model.eval()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "retinanet_resnet50_fpn_v2" else ())
        for name in published.names()
    ],
)
def test_the_same_detections_as_torchvision(name: str) -> None:
    torch.manual_seed(0)
    side = 320 if "mobile" in name else 160  # so small a map of stride 32 says nothing
    settings = {"min_size": side} | ({"max_size": 2 * side} if "320" in name else {})
    settings = {} if name.startswith("ssd") else settings  # which makes squares of its own
    network, model = pair(name, published.norm_eps(name, ""), plain(name, **settings))
    for sizes in ([(side, side + 54)], [(side + 57, side), (side, side)])[name == "ssd300_vgg16" :]:
        compare(name, network, model, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", published.names())
def test_the_same_detections_at_published_sizes(name: str) -> None:
    torch.manual_seed(0)
    network, model = pair(name, published.norm_eps(name, ""), plain(name), few=False)
    side = published.DETECTORS[name].imgsz
    for sizes in ([(side, side * 4 // 3)], [(side, side), (side * 5 // 4, side), (side, side * 3 // 2)]):
        compare(name, network, model, sizes)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name[0] != "f" else ())
        for name, detector in published.DETECTORS.items()
        if detector.no_eps
    ],
)
def test_the_first_coco_weights_have_frozen_norms_without_epsilon(name: str) -> None:
    """One whose variances are so small in one layer that an epsilon would be a part of them."""
    (weights,) = {published.norm_eps(name, weights) for weights in published.DETECTORS[name].no_eps}
    assert weights == 0.0 and published.norm_eps(name, "") is None
    torch.manual_seed(2)
    network = frozen(name, min_size=160)
    with torch.no_grad():
        network.backbone.body.layer1[0].conv1.weight.mul_(5e-3)
    network, model = pair(name, 0.0, network)
    # A frozen norm multiplies and adds in another order than ours, and random networks enlarge the rounding.
    scores_to = 3e-4
    assert 0 < network.backbone.body.layer1[0].bn1.running_var.mean() < 1e-4
    compare(name, network, model, [(160, 214)], scores_to)
    other = published.construct(name)
    published.insert(other, network.state_dict(), "here")
    images = batch([(160, 160)])[1].pixels
    one, two = (m.eval().backbone(images, ["c5"])["c5"] for m in (model, other))
    assert (one - two).abs().max() > 0.01 * one.abs().max()


def test_the_first_coco_weights_are_known_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Under any name, so that a renamed file does not silently get an epsilon; of other files it is said."""

    class Constructed(Exception):
        """With this epsilon."""

    def stop(_: str, eps: float | None) -> Model:
        raise Constructed(eps)

    monkeypatch.setattr(published, "construct", stop)
    name, file = "fasterrcnn_resnet50_fpn", tmp_path / "detector.pth"
    torch.save({"a": torch.ones(1)}, file)
    with pytest.raises(Constructed, match="None"):
        published.build(name, str(file))
    assert "detector.pth: none of fasterrcnn_resnet50_fpn's published files" in caplog.text
    assert "give the published file, or weights=COCO_V1" in caplog.text
    caplog.clear()
    known = torchvision_weights.published_weights(name)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    known["COCO_V1"] = replace(known["COCO_V1"], sha256=digest)
    monkeypatch.setattr(torchvision_weights, "published_weights", lambda _: known)
    with pytest.raises(Constructed, match=r"0\.0"):
        published.build(name, str(file))
    assert torchvision_weights.open_weights(name, str(file))[2].source == known["COCO_V1"].url
    assert not caplog.text


def test_files_with_the_names_of_old_are_read() -> None:
    name = "maskrcnn_resnet50_fpn"
    state = plain(name).state_dict()
    old = {}
    for key, value in state.items():
        key = re.sub(r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", key)
        key = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.0\.", r"\1.", key)
        key = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", key)
        if not key.endswith("num_batches_tracked"):  # frozen norms count nothing
            old[key] = value
    assert len(old.keys() - state.keys()) == 2 + 16 + 8
    plain(name).load_state_dict(dict(old))  # torchvision takes them too
    models = [published.construct(name) for _ in range(2)]
    for model, tensors in zip(models, (state, old)):
        published.insert(model, tensors, "here")
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    old.pop("rpn.head.conv.weight")
    with pytest.raises(
        WeightsError, match=r"here: .* 1 keys are missing \['tasks.mask_rcnn.rpn.head.conv.0.0.weight'"
    ):
        published.insert(models[0], old, "here")


def test_files_of_the_first_retinanet_are_read() -> None:
    """Their towers had the ReLUs among the numbered layers."""
    name = "retinanet_resnet50_fpn"
    state = plain(name).state_dict()
    old = {
        re.sub(r"head\.conv\.(\d)\.0\.", lambda f: f"head.conv.{2 * int(f[1])}.", k): v
        for k, v in state.items()
    }
    assert len(old.keys() - state.keys()) == 16
    plain(name).load_state_dict(dict(old))  # torchvision takes them too
    models = [published.construct(name) for _ in range(2)]
    for model, tensors in zip(models, (state, old)):
        published.insert(model, tensors, "here")
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn", "ssd300_vgg16"])
def test_classes_have_their_ids(name: str) -> None:
    classes = published.classes_of(name)
    assert classes.names[classes.index(1)] == "person" and classes.names[classes.index(90)] == "toothbrush"
    # torchvision's others score the place of the background too
    assert (0 in classes.ids) == (name != "ssd300_vgg16")
