import numpy as np
import torch

from retinue.backbones.lenet import CONNECTIONS, ScaledTanh, lenet5


def test_sizes_for_the_papers_picture():
    backbone = lenet5(in_channels=1, classes=10)
    assert backbone.output_sizes(32, 32) == {"image": (32, 32), "c1": (14, 14), "c2": (5, 5)}
    assert backbone.layer1(torch.zeros(1, 1, 32, 32)).shape == (1, 6, 28, 28)
    assert backbone.layer5(torch.zeros(1, 16, 5, 5)).shape == (1, 120)


def test_table_1_has_sixty_connections():
    by_input = np.zeros((6, 16), int)
    for output, reads in enumerate(CONNECTIONS):
        by_input[list(reads), output] = 1
    assert by_input.sum() == 60
    assert by_input.sum(1).tolist() == [10] * 6
    assert len(set(map(frozenset, CONNECTIONS))) == 16


def test_trained_parameters_of_the_paper():
    """Section II-B, layer by layer: 156, 12, 1,516, 32, 48,120, 10,164; 60,000 together."""
    backbone = lenet5(in_channels=1, classes=10)
    layers = [getattr(backbone, f"layer{i}") for i in range(1, 7)]
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    conv = backbone.layer3[0]
    counts[2] = int(conv.mask.sum()) * 25 + 16
    assert counts == [156, 12, 1516, 32, 48_120, 10_164]
    assert sum(counts) == 60_000


def test_partial_convolution_reads_only_its_connections():
    conv = lenet5(classes=10).layer3[0].double()
    x = torch.rand(1, 6, 6, 6, dtype=torch.float64)
    for unread in range(6):
        changed = x.clone()
        changed[:, unread] += 1
        moved = (conv(changed) - conv(x)).abs().amax((0, 2, 3)) > 1e-12
        assert moved.tolist() == [unread in reads for reads in CONNECTIONS]


def test_unread_weights_get_no_gradient():
    conv = lenet5(classes=10).layer3[0]
    conv(torch.rand(1, 6, 6, 6)).sum().backward()
    assert torch.equal(conv.weight.grad.abs().sum((2, 3)) > 0, conv.mask[:, :, 0, 0] > 0)


def test_initial_weights_stay_within_the_papers_bound():
    backbone = lenet5(in_channels=1, classes=10)
    assert backbone.layer1[0].weight.abs().max() <= 2.4 / 25
    mask = backbone.layer3[0].mask
    bound = 2.4 / (25 * mask.sum(1, keepdim=True))
    assert ((backbone.layer3[0].weight * mask).abs() <= bound + 1e-7).all()
    assert backbone.layer3[0].weight[0].abs().max() > 2.4 / 150  # three inputs, not six


def test_scaled_tanh_is_one_at_one():
    assert torch.allclose(
        ScaledTanh()(torch.tensor([-1.0, 0.0, 1.0])), torch.tensor([-1.0, 0.0, 1.0]), atol=1e-4
    )


def test_ink_and_paper_are_normalised_as_in_the_paper():
    x = lenet5(in_channels=1, classes=10).normalise(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2))
    assert torch.allclose(x.flatten(), torch.tensor([-0.1, 1.175]))


def test_larger_pictures_are_classified_too():
    backbone = lenet5(classes=7)
    assert backbone.top()(backbone(torch.rand(2, 3, 61, 48))).shape == (2, 7)


def test_subsampling_by_hand():
    layer = lenet5(in_channels=1, classes=10).layer2[0]
    with torch.no_grad():
        layer.coefficient.fill_(2)
        layer.bias.fill_(0.5)
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).expand(1, 6, 2, 2)
    assert layer(x).flatten().tolist() == [6.5] * 6
