"""PSPNet: the trunk's stride, which maps are read, the auxiliary head, and what is refused."""

from typing import Any

import pytest
import torch
from small_trunks import SmallTrunk

from retinue.backbones import build
from retinue.datasets.targets import ClassMap, DataError
from retinue.tasks import model_file
from retinue.tasks.segmentation.pspnet import PSPNet
from retinue.tasks.task import Model

CLASSES = ClassMap(("road", "sky", "tree"))


def made(name: str, **settings: Any) -> PSPNet:
    with torch.device("meta"):
        backbone = PSPNet.trunk_for(build(name), settings)
        return PSPNet(backbone, CLASSES, **settings)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@torch.no_grad()
def test_logits_have_the_stride_asked_for(output_stride: int) -> None:
    backbone = PSPNet.trunk_for(SmallTrunk(), {"output_stride": output_stride}).eval()
    task = PSPNet(backbone, CLASSES, output_stride=output_stride).eval()
    (logits,) = task.logits(backbone(torch.rand(1, 3, 97, 64), task.levels))
    assert logits.shape == (1, 3, -(-97 // output_stride), 64 // output_stride)
    assert PSPNet.trunk_for(backbone, {"output_stride": output_stride}) is backbone


def test_widths_are_the_paper_s_on_its_trunk() -> None:
    task = made("resnet50")
    assert task.levels == ("c4", "c5") and task.width == 512
    assert task.pyramid.channels == 4096
    assert task.aux_classifier is not None and task.aux_classifier[0].in_channels == 1024


def test_a_widening_for_a_classifier_is_not_read() -> None:
    task = made("mobilenet_v2")
    assert task.levels == ("c4", "block17") and task.width == 80
    assert made("mobilenet_v2", level="c5", auxiliary_level="c3").levels == ("c3", "c5")


def test_the_auxiliary_head_only_helps_training_and_may_be_left_out() -> None:
    backbone = PSPNet.trunk_for(SmallTrunk(), {})
    task = PSPNet(backbone, CLASSES)
    features = backbone(torch.rand(2, 3, 64, 64), task.levels)
    assert len(task.train().logits(features)) == 2 and len(task.eval().logits(features)) == 1
    assert task.settings["auxiliary"] == 0.4
    alone = PSPNet(backbone, CLASSES, auxiliary=0.0)
    assert alone.levels == ("c5",) and len(alone.train().logits(features)) == 1


def test_a_saved_model_has_the_dilated_trunk_again(tmp_path: Any) -> None:
    backbone = PSPNet.trunk_for(build("shufflenet_v2_x0_5"), {"output_stride": 16})
    model = Model(backbone, {"it": PSPNet(backbone, CLASSES, output_stride=16)}).eval()
    model_file.save(model, tmp_path / "a.safetensors", imgsz=64)
    again, _ = model_file.load(tmp_path / "a.safetensors")
    images, (one, two) = torch.rand(1, 3, 64, 96), (m.named_tasks["it"] for m in (model, again))
    assert again.backbone.levels == model.backbone.levels
    with torch.no_grad():
        assert torch.equal(
            one.logits(model.backbone(images, one.levels))[0],  # type: ignore[attr-defined]
            two.logits(again.backbone(images, two.levels))[0],  # type: ignore[attr-defined]
        )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vgg11", {}, "strides of vgg11 cannot all become dilations; say output_stride=32"),
        ("resnet18", {"output_stride": 0}, "output_stride=0"),
        ("resnet18", {"bins": ()}, "bins="),
        ("resnet18", {"width": 0}, "width=0"),
        ("resnet18", {"level": "c9"}, "level=c9"),
        ("pixels", {}, "only the picture itself"),
    ],
)
def test_what_cannot_be_is_named(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made(name, **settings)


def test_a_trunk_that_was_dilated_further_is_named() -> None:
    backbone = PSPNet.trunk_for(SmallTrunk(), {"output_stride": 8})
    with pytest.raises(DataError, match="dilated to 8"):
        PSPNet.trunk_for(backbone, {"output_stride": 16})
