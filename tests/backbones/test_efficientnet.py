import pytest
import torch
import torchvision.models

from retinue.backbones import efficientnet
from retinue.backbones.backbone import Level

COUNTS = {
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704,
    "efficientnet_b7": 66_347_960,
    "efficientnet_v2_s": 21_458_488,
    "efficientnet_v2_m": 54_139_356,
    "efficientnet_v2_l": 118_515_272,
}


def nodes(theirs):
    """The last block of every stage that ends a level."""
    from torchvision.models.feature_extraction import get_graph_node_names

    names = get_graph_node_names(theirs)[1]
    last = {name.split(".")[1]: name for name in names if name.startswith("features.")}
    head = str(len(theirs.features) - 1)
    tail = str(len(theirs.features) - 2)
    stages = {"c1": "1", "c2": "2", "c3": "3", "c4": "5", f"block{tail}": tail, "c5": head}
    return {level: last[stage] for level, stage in stages.items()}


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", *(pytest.param(n, marks=pytest.mark.slow) for n in list(COUNTS)[1:])]
)
def test_maps_and_logits_equal_torchvision(check_parity, name):
    theirs = getattr(torchvision.models, name)(num_classes=10)
    check_parity(getattr(efficientnet, name)(classes=10), theirs, nodes(theirs))


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameters_and_state_as_published(name, count):
    with torch.device("meta"):
        ours, theirs = getattr(efficientnet, name)(), getattr(torchvision.models, name)()
    assert sum(p.numel() for p in ours.parameters()) == count
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
    rates = [[m.p for m in b.modules() if hasattr(m, "mode") and hasattr(m, "p")] for b in (ours, theirs)]
    assert rates[0] == pytest.approx(rates[1])
    norms = [[(m.eps, m.momentum) for m in b.modules() if hasattr(m, "momentum")] for b in (ours, theirs)]
    assert norms[0] == norms[1]


def test_the_levels_that_efficientdet_reads():
    levels = efficientnet.efficientnet_b0(classes=2).levels
    assert (levels["c3"], levels["c4"], levels["block7"]) == (Level(40, 8), Level(112, 16), Level(320, 32))
