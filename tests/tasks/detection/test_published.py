"""The published detectors are torchvision's: same tensors in, same detections out."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection as theirs
from torchvision.models import mobilenet_v3_large, resnet50
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _mobilenet_extractor, _resnet_fpn_extractor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d

from retinue.backbones.weights import WeightsError
from retinue.datasets.targets import Pictures, Sample, collate
from retinue.tasks.detection import published
from retinue.tasks.detection.results import Detections
from retinue.tasks.task import Model

SURVIVE = 50
"""Detections a picture without which a comparison says little."""


def spread(network: nn.Module, pictures: list[Tensor]) -> None:
    """Give a random detector the statistics of its own activations, and heads that find something everywhere."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.normal_(norm.bias, 0, 0.2)

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        module.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        module.running_var.copy_(inputs[0].var((0, 2, 3)))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    predictor = network.roi_heads.box_predictor
    spreads = {
        network.rpn.head.cls_logits: 1.5,
        network.rpn.head.bbox_pred: 0.3,
        predictor.cls_score: 2.5
        if predictor.cls_score.out_features > 2
        else 0.5,  # near 1, ties are no order
        predictor.bbox_pred: 1.0,
    }
    for layer in spreads:
        nn.init.normal_(layer.weight, 0, 10)
        nn.init.zeros_(layer.bias)
    hooks += [layer.register_forward_hook(partial(rescale, deviation=d)) for layer, d in spreads.items()]
    with torch.no_grad():
        network(pictures)
    for one in hooks:
        one.remove()


def rescale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, deviation: float) -> Tensor:
    """Shrink the layer, at each map that it reads, to outputs of no more than this standard deviation."""
    factor = (deviation / output.std()).clamp(max=1)
    layer.weight.mul_(factor)
    return output * factor


def frozen_resnet(eps: float) -> nn.Module:
    body = resnet50(norm_layer=partial(FrozenBatchNorm2d, eps=eps))
    return _resnet_fpn_extractor(body, 5)


def frozen_mobilenet() -> nn.Module:
    return _mobilenet_extractor(mobilenet_v3_large(norm_layer=FrozenBatchNorm2d), True, 6)


def plain(name: str, **settings: object) -> nn.Module:
    builder: Callable[..., nn.Module] = getattr(theirs, name)
    return builder(weights=None, weights_backbone=None, **settings)


THEIRS: dict[str, Callable[..., nn.Module]] = {name: partial(plain, name) for name in published.names()}


def batch(sizes: list[tuple[int, int]], seed: int = 0) -> tuple[list[Tensor], Pictures]:
    """Random pictures as torchvision takes them, and the same on our canvas."""
    rng = np.random.default_rng(seed)
    samples = []
    for i, (height, width) in enumerate(sizes):
        small = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        image = small.repeat(16, 0).repeat(16, 1)[:height, :width]
        noise = rng.integers(0, 60, image.shape, dtype=np.uint8)
        samples.append(Sample(str(i), np.ascontiguousarray(image // 2 + noise)))
    pictures, _ = collate(samples, (0.485, 0.456, 0.406), 32)
    return [p[:, :h, :w].contiguous() for p, (h, w) in zip(pictures.pixels, sizes)], pictures


def compare(name: str, network: nn.Module, model: Model, sizes: list[tuple[int, int]]) -> None:
    images, pictures = batch(sizes)
    with torch.no_grad():
        expected = network(images)
    (results,) = model.predict(pictures).values()
    for want, got in zip(expected, results):
        assert len(got) == len(want["boxes"]) >= SURVIVE
        order = pairing({key: value.numpy() for key, value in want.items()}, got)
        if got.masks is not None:
            small = torch.from_numpy(got.masks.probabilities[order])[:, None]
            pasted = paste_masks_in_image(small, torch.from_numpy(got.boxes[order]), got.size)
            difference = (pasted - want["masks"]).abs()
            assert (difference > 1e-3).float().mean() < 1e-3  # where a box's last bit rounds to another pixel
        if got.keypoints is not None and got.keypoint_scores is not None:
            np.testing.assert_allclose(got.keypoints[order], want["keypoints"].numpy(), atol=0.01, rtol=0)
            scores = want["keypoints_scores"].numpy()
            np.testing.assert_allclose(got.keypoint_scores[order], scores, atol=1e-4 * np.abs(scores).max())


def pairing(want: dict[str, np.ndarray], got: Detections) -> np.ndarray:
    """For each of theirs the one of ours that is the same; where scores agree to 1e-4 their order may not."""
    apart = np.abs(got.boxes[None] - want["boxes"][:, None]).max(2) / 0.01
    apart = np.maximum(apart, np.abs(got.scores[None] - want["scores"][:, None]) / 1e-4)
    apart[got.labels[None] + 1 != want["labels"][:, None]] = np.inf
    order = apart.argmin(1)
    assert apart.min(1).max() <= 1 and len(set(order)) == len(order)
    return order


def pair(name: str, eps: float | None, network: nn.Module) -> tuple[nn.Module, Model]:
    spread(network.eval(), batch([(160, 192), (192, 160)], 7)[0])
    if eps == 0.0:
        overwrite_eps(network, 0.0)
    model = published.construct(name, eps)
    published.insert(model, network.state_dict(), "here")
    (task,) = model.tasks.values()
    # Fewer than published, for the sake of the test's time.
    network.roi_heads.detections_per_img = task.detections = 60
    network.rpn._pre_nms_top_n["testing"] = network.rpn._post_nms_top_n["testing"] = 300
    task.rpn.top = (2000, 300)
    return network, model.eval()


@pytest.mark.parametrize("name", published.names())
def test_the_same_detections_as_torchvision(name: str) -> None:
    torch.manual_seed(0)
    side = 320 if "mobile" in name else 160  # so small a map of stride 32 says nothing
    settings = {"min_size": side} | ({"max_size": 2 * side} if "320" in name else {})
    network, model = pair(name, published.norm_eps(name, ""), THEIRS[name](**settings))
    for sizes in ([(side, side + 54)], [(side + 57, side), (side, side)]):
        compare(name, network, model, sizes)
