import pytest
import torch
import torchvision.models

from retinue.backbones import convnext

COUNTS = {
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
}


@pytest.mark.parametrize(
    "name", ["convnext_tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in list(COUNTS)[1:])]
)
def test_maps_and_logits_equal_torchvision(check_parity, name):
    theirs = getattr(torchvision.models, name)(num_classes=10)
    nodes = {f"c{i}": f"features.{2 * i - 3}.{len(theirs.features[2 * i - 3]) - 1}.add" for i in range(2, 6)}
    check_parity(getattr(convnext, name)(classes=10), theirs, nodes)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameters_and_state_as_published(name, count):
    with torch.device("meta"):
        ours, theirs = getattr(convnext, name)(), getattr(torchvision.models, name)()
    assert sum(p.numel() for p in ours.parameters()) == count
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
    rates = [[m.p for m in b.modules() if hasattr(m, "mode") and hasattr(m, "p")] for b in (ours, theirs)]
    assert rates[0] == pytest.approx(rates[1])


def test_levels_begin_at_stride_4():
    backbone = convnext.convnext_tiny(classes=2)
    assert [(name, level.stride) for name, level in backbone.levels.items()] == [
        ("image", 1),
        ("c2", 4),
        ("c3", 8),
        ("c4", 16),
        ("c5", 32),
    ]
    assert backbone.output_sizes(71, 64)["c5"] == (2, 2)
    with pytest.raises(ValueError, match="too small"):
        backbone.output_sizes(31, 64)
