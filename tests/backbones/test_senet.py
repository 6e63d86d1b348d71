import pytest
import torch
import torchvision
from torch.nn import functional as F

from retinue.backbones.senet import SEBottleneck, SqueezeExcitation, seresnet50


def test_squeeze_and_excitation_by_hand():
    se = SqueezeExcitation(16, reduction=16)
    with torch.no_grad():
        se.fc1.weight.fill_(0.5), se.fc1.bias.fill_(1.0)
        se.fc2.weight.copy_(torch.linspace(-1, 1, 16).view(16, 1, 1, 1)), se.fc2.bias.fill_(0.25)
    x = torch.zeros(1, 16, 2, 2)
    x[0, 3] = torch.tensor([[1.0, 2.0], [3.0, 6.0]])  # mean 3, every other channel 0
    hidden = 0.5 * 3 + 1
    gate = torch.sigmoid(torch.tensor((-1 + 2 * 3 / 15) * hidden + 0.25))
    expected = torch.zeros_like(x)
    expected[0, 3] = gate * x[0, 3]
    torch.testing.assert_close(se(x), expected)


def test_gates_are_below_one_and_read_the_whole_picture():
    se = SqueezeExcitation(32)
    x = torch.rand(1, 32, 4, 4) + 0.1
    y = se(x)
    assert y.shape == x.shape and ((y / x) < 1).all() and ((y / x) > 0).all()
    changed = x.clone()
    changed[..., 3, 3] += 10
    assert not torch.allclose(se(changed)[..., 0, 0], y[..., 0, 0])


def test_the_block_recalibrates_before_the_sum(spread):
    block = spread(SEBottleneck(64, 16)).eval()
    x = torch.rand(1, 64, 5, 5, generator=torch.Generator().manual_seed(0))
    y = F.relu(block.bn1(block.conv1(x)))
    y = F.relu(block.bn2(block.conv2(y)))
    y = block.bn3(block.conv3(y))
    weight = (block.se.fc1.weight[:, :, 0, 0], block.se.fc2.weight[:, :, 0, 0])
    z = F.relu(y.mean((2, 3)) @ weight[0].T + block.se.fc1.bias)
    gate = torch.sigmoid(z @ weight[1].T + block.se.fc2.bias)
    torch.testing.assert_close(block(x), F.relu(x + y * gate[:, :, None, None]))


def test_with_open_gates_it_is_a_resnet(spread):
    ours, plain = seresnet50().eval(), spread(torchvision.models.resnet50()).eval()
    ours.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for module in ours.modules():
            if isinstance(module, SqueezeExcitation):
                module.fc2.weight.zero_()
                module.fc2.bias.fill_(40)  # sigmoid(40) is 1 in single precision
        picture = torch.rand(1, 3, 96, 64)
        logits, expected = ours.top()(ours(picture)), plain(ours.normalise(picture))
    assert (logits - expected).abs().max() <= 1e-5 * expected.std()


def test_size_is_the_papers():
    # section 3: two layers of 2 C^2 / 16 weights and their biases for each block of table 1
    blocks = ((256, 3), (512, 4), (1024, 6), (2048, 3))
    extra = sum(n * (2 * c * c // 16 + c + c // 16) for c, n in blocks)
    assert sum(p.numel() for p in seresnet50().parameters()) == 25_557_032 + extra


def test_maps_and_logits_are_timms(check_parity):
    timm = pytest.importorskip("timm")
    nodes = {"c1": "act1", "c2": "layer1", "c3": "layer2", "c4": "layer3", "c5": "layer4"}
    check_parity(seresnet50(), timm.create_model("seresnet50"), nodes)
