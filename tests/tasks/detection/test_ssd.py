"""SSD's own: which maps it reads, what its settings are refused for, its augmentation, and batches of one."""

from typing import Any

import numpy as np
import pytest
import torch
from detectors import CLASSES, THREE, batch, descend, sample, small
from torch import nn

from retinue.backbones import build
from retinue.datasets.targets import DataError
from retinue.datasets.transforms import RandomIoUCrop, RandomZoomOut
from retinue.tasks.detection.retinanet import RetinaNet
from retinue.tasks.detection.ssd import SSD
from retinue.tasks.detection.ssdlite import SSDLite
from retinue.tasks.task import Model


def sizes(model: Model, side: int) -> list[int]:
    """The sides of the maps, without computing one."""
    task: Any = model.named_tasks["it"]
    grids = model.eval().backbone.output_sizes(side, side)
    maps = {name: torch.empty(1, model.backbone.levels[name].channels, *grids[name]) for name in task.levels}
    return [x.shape[-1] for x in task.maps(maps)]


def on(kind: type[SSD], name: str, **settings: Any) -> Model:
    trunk = kind.trunk_for(build(name), settings)
    return Model(trunk, {"it": kind(trunk, CLASSES, **settings)})


def test_maps_of_the_papers() -> None:
    trunk = build("vgg16", atrous=True)
    assert sizes(Model(trunk, {"it": SSD(trunk, CLASSES)}), 300) == [38, 19, 10, 5, 3, 1]
    assert sizes(on(SSDLite, "mobilenet_v2"), 320) == [20, 10, 5, 3, 2, 1]
    assert sizes(on(SSDLite, "mobilenet_v3_large"), 320) == [20, 10, 5, 3, 2, 1]
    assert sizes(on(SSD, "resnet18", extra_channels=[64, 64, 64]), 300) == [38, 19, 10, 5, 3, 2]
    levels = on(SSDLite, "mobilenet_v2").named_tasks["it"].levels
    assert levels == ("expand14", "c5")


def test_the_norm_of_conv4_3_is_twenty_everywhere() -> None:
    trunk = build("vgg16", atrous=True)
    task = SSD(trunk, CLASSES)
    maps = task.maps({"conv4_3": torch.rand(1, 512, 38, 38), "fc7": torch.rand(1, 1024, 19, 19)})
    torch.testing.assert_close(maps[0].norm(dim=1), torch.full((1, 38, 38), 20.0))
    with pytest.raises(DataError, match=r"too small .* imgsz=300"):
        task.maps({"conv4_3": torch.rand(1, 512, 8, 8), "fc7": torch.rand(1, 1024, 4, 4)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_levels": ["c3", "c9"]}, r"feature_levels=c3,c9: no \['c9'\]; the backbone has"),
        ({"box_scales": [0.1, 0.2]}, r"box_scales=\[0.1, 0.2\]: 8 numbers for 7 maps"),
        ({"box_steps": [8.0]}, "7 numbers for 7 maps"),
        ({"box_ratios": [2.0, -1.0]}, "give numbers above 0"),
        ({"negatives": -1.0}, "negatives=-1.0"),
        ({"zoom_out": 0.5}, "zoom_out=0.5: zoom_out is from 1 to 16"),
        ({"candidates": 0}, "candidates=0"),
        ({"foreground_iou": 1.5}, "foreground_iou=1.5"),
        ({"scales": (0.5, 1.0)}, r"scales=\[0.5, 1.0\]: .* see zoom_out"),
        ({"longest": 2.0}, "longest=2.0: this detector's canvas is a square"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        small(SSD, **settings)


def test_ssdlite_learns_from_one_picture_and_its_norms_go_on_afterwards() -> None:
    model = small(SSDLite)
    norms = [m for m in model.named_tasks["it"].modules() if isinstance(m, nn.BatchNorm2d)]
    descend(model, *batch(sample(THREE)), steps=1)
    assert norms and all(m.training and m.num_batches_tracked == 0 for m in norms)
    descend(model, *batch(sample(THREE), sample([])), steps=1)
    assert all(m.num_batches_tracked == 1 for m in norms)


def test_training_pictures_are_squares_and_their_boxes_lie_inside() -> None:
    task: Any = small(SSD).named_tasks["it"]
    transform = task.train_transform(48)
    kinds = [type(step) for step in transform.transforms]
    assert RandomZoomOut in kinds and RandomIoUCrop in kinds
    picture = sample(THREE, (64, 90))
    picture = picture.with_(targets={k: picture.targets[k] for k in ("boxes", "box_labels", "crowd")})
    counts = set()
    for seed in range(40):
        out = transform(picture, np.random.default_rng(seed))
        assert out.image.shape == (48, 48, 3)
        boxes = out.targets["boxes"]
        assert len(boxes) == len(out.targets["box_labels"]) and (boxes >= 0).all() and (boxes <= 48).all()
        counts.add(len(boxes))
    assert 3 in counts and counts - {3}
    plain = small(SSD, zoom_out=1.0, crop=False, colour=0.0, flip=False).named_tasks["it"].train_transform(48)
    same = task.eval_transform(48)(picture, np.random.default_rng(0))
    np.testing.assert_array_equal(plain(picture, np.random.default_rng(0), None).image, same.image)


def test_a_detector_without_a_pyramid_is_told_how() -> None:
    with pytest.raises(DataError, match="resnet18 has no pyramid"):
        RetinaNet(build("resnet18"), CLASSES)
