import torch

from retinue.backbones.zfnet import zfnet


def test_sizes_of_figure_3():
    with torch.device("meta"):
        backbone = zfnet(classes=2)
    sizes = backbone.output_sizes(224, 224)
    assert {name: size[0] for name, size in sizes.items()} == {
        "image": 224,
        "c1": 110,
        "c2": 55,
        "c3": 26,
        "c4": 13,
        "c5": 6,
    }


def test_parameters_by_hand():
    """Kernels and biases of figure 3, layer by layer."""
    layers = [
        7 * 7 * 3 * 96 + 96,
        5 * 5 * 96 * 256 + 256,
        3 * 3 * 256 * 384 + 384,
        3 * 3 * 384 * 384 + 384,
        3 * 3 * 384 * 256 + 256,
        6 * 6 * 256 * 4096 + 4096,
        4096 * 4096 + 4096,
        4096 * 1000 + 1000,
    ]
    with torch.device("meta"):
        backbone = zfnet()
    assert sum(p.numel() for p in backbone.parameters()) == sum(layers) == 62_357_608


def test_contrast_normalisation_by_hand():
    """One position, two channels of 1 and 3: each is divided by (2 + 1e-4 / 5 * 10) ** 0.75."""
    with torch.device("meta"):
        norm = zfnet(classes=2).pool1[1]
    x = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    assert torch.allclose(norm(x), x / (2 + 1e-4 * 10 / 5) ** 0.75)


def test_top_is_fc6_fc7_and_the_classifier():
    backbone = zfnet(classes=3).eval()
    top = backbone.chop()
    pooled = torch.rand(2, 256, 6, 6)
    fc6, fc7 = top.embed[2], top.embed[5]
    expected = fc7(fc6(pooled.flatten(1)).relu()).relu()
    assert torch.equal(top.embed(pooled), expected)
    assert top({"c5": pooled}).shape == (2, 3)
    assert not [key for key in backbone.state_dict() if "classifier" in key]
