import pytest
import torch
import torchvision.models

from retinue.backbones.squeezenet import squeezenet1_0, squeezenet1_1

NODES = {
    "1_0": {"c1": "features.1", "c2": "features.5.cat", "c3": "features.10.cat", "c4": "features.12.cat"},
    "1_1": {"c1": "features.1", "c2": "features.4.cat", "c3": "features.7.cat", "c4": "features.12.cat"},
}


@pytest.mark.parametrize(("version", "build"), [("1_0", squeezenet1_0), ("1_1", squeezenet1_1)])
def test_maps_and_logits_equal_torchvision(check_parity, version, build):
    theirs = getattr(torchvision.models, f"squeezenet{version}")(num_classes=10)
    check_parity(build(classes=10), theirs, NODES[version])


def test_deepest_map_has_stride_16():
    backbone = squeezenet1_1(classes=2)
    assert list(backbone.levels) == ["image", "c1", "c2", "c3", "c4"]
    # (224 - 3) // 2 + 1 = 111, then three poolings of 3 with stride 2 that round up
    assert [h for h, _ in backbone.output_sizes(224, 224).values()] == [224, 111, 55, 27, 13]


def test_top_averages_classified_positions_and_embeds_the_average():
    backbone = squeezenet1_1(classes=5).eval()
    top, maps = backbone.top(), {"c4": torch.rand(2, 512, 3, 4)}
    assert torch.allclose(top.embed(maps["c4"]), maps["c4"].mean((2, 3)))
    positions = [top.last(maps["c4"][:, :, i : i + 1, j : j + 1]).relu() for i in range(3) for j in range(4)]
    expected = torch.stack(positions).mean(0).flatten(1)
    assert torch.allclose(top(maps), expected, atol=1e-6)


def test_replace_last_gives_other_classes_and_keeps_the_rest():
    top = squeezenet1_1(classes=5).chop()
    top.replace_last(3)
    assert top({"c4": torch.rand(2, 512, 3, 4)}).shape == (2, 3)
    assert 0.005 < top.last.weight.std() < 0.015
    assert top.last.bias.abs().max() == 0


def test_parameters_as_published():
    assert sum(p.numel() for p in squeezenet1_0().parameters()) == 1_248_424
    assert sum(p.numel() for p in squeezenet1_1().parameters()) == 1_235_496
