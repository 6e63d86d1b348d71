import pytest
import torch
import torchvision.models

from retinue.backbones import shufflenet

NODES = {
    "c1": "conv1.2",
    "c2": "maxpool",
    "c3": "stage2.3.view_1",
    "c4": "stage3.7.view_1",
    "stage4": "stage4.3.view_1",
    "c5": "conv5.2",
}
SIZES = {"x0_5": 1_366_792, "x1_0": 2_278_604, "x1_5": 3_503_624, "x2_0": 7_393_996}


@pytest.mark.parametrize(
    "size", ["x0_5", *(pytest.param(s, marks=pytest.mark.slow) for s in ("x1_0", "x1_5", "x2_0"))]
)
def test_maps_and_logits_equal_torchvision(check_parity, size):
    name = f"shufflenet_v2_{size}"
    theirs = getattr(torchvision.models, name)(num_classes=10)
    check_parity(getattr(shufflenet, name)(classes=10), theirs, NODES)


@pytest.mark.parametrize(("size", "count"), SIZES.items())
def test_parameters_as_published(size, count):
    with torch.device("meta"):
        backbone = getattr(shufflenet, f"shufflenet_v2_{size}")()
    assert sum(p.numel() for p in backbone.parameters()) == count


def test_shuffle_by_hand():
    x = torch.arange(6).view(1, 6, 1, 1)
    assert shufflenet.channel_shuffle(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(shufflenet.channel_shuffle(shufflenet.channel_shuffle(x, 3), 2), x)
