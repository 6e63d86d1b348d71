import torchvision.models

from retinue.backbones.backbone import Level
from retinue.backbones.mobilenet_v2 import mobilenet_v2

NODES = {
    "c1": "features.1.conv.2",
    "c2": "features.3.add",
    "c3": "features.6.add",
    "c4": "features.13.add",
    "expand14": "features.14.conv.0",
    "block14": "features.14.conv.3",
    "block17": "features.17.conv.3",
    "c5": "features.18",
}


def test_maps_and_logits_equal_torchvision(check_parity):
    check_parity(mobilenet_v2(classes=10), torchvision.models.mobilenet_v2(num_classes=10), NODES)


def test_sizes_by_hand():
    backbone = mobilenet_v2(classes=2)
    sizes = {"image": 193, "c1": 97, "c2": 49, "c3": 25, "c4": 13}
    sizes |= {"expand14": 13, "block14": 7, "block17": 7, "c5": 7}
    assert backbone.output_sizes(193, 193) == {name: (side, side) for name, side in sizes.items()}
    assert backbone.levels["c5"] == Level(1280, 32)


def test_parameters_as_published():
    assert sum(p.numel() for p in mobilenet_v2().parameters()) == 3_504_872
