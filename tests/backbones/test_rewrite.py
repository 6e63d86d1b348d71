"""Graphs rewritten for inference give what they gave: layers alone, sums, code that writes, graphs drawn at random."""

import random

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from retinue.backbones.fused import fuse
from retinue.backbones.onednn import FusedConv2d, FusedLinear, has_onednn


def pictures(height, width):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_folding_by_hand(packed):
    """weight 2, bias 1, mean 3, variance 4, eps 0, scale 6, shift 5: 3 (2x + 1 - 3) + 5 = 6x - 1."""
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0)
    for tensor, value in ((conv.weight, 2), (conv.bias, 1), (norm.weight, 6), (norm.bias, 5)):
        tensor.fill_(value)
    norm.running_mean.fill_(3), norm.running_var.fill_(4)
    x = torch.arange(-2.0, 4).view(1, 1, 2, 3)
    assert fuse(nn.Sequential(conv, norm), packed=packed)(x).flatten().tolist() == [-13, -7, -1, 5, 11, 17]


ACTIVATIONS = [
    nn.ReLU(inplace=True),
    nn.ReLU6(inplace=True),
    nn.Hardtanh(-0.5, 0.7),
    nn.LeakyReLU(0.2),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.ELU(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_activations(activation, packed, spread):
    stack = nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Flatten(2), nn.Linear(35, 6), activation)
    stack = spread(stack).eval()
    fast = fuse(stack, packed=packed)
    torch.testing.assert_close(fast(pictures(7, 9)), stack(pictures(7, 9)), rtol=1e-5, atol=1e-5)
    fused = [m for m in fast.modules() if isinstance(m, FusedConv2d | FusedLinear)]
    expected = "none" if isinstance(activation, nn.ELU) else fused[0].activation.name
    assert len(fused) == 2 and {m.activation.name for m in fused} == {expected}
    assert isinstance(activation, nn.ELU) or expected != "none"


GEOMETRIES = {
    "grouped": {"groups": 2},
    "depth-wise": {"groups": 8},
    "dilated": {"dilation": 2, "padding": 2},
    "oblong": {"kernel_size": (1, 5), "padding": (0, 2), "stride": (2, 1)},
    "same": {"padding": "same"},
    "reflect": {"padding": 1, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("options", GEOMETRIES.values(), ids=GEOMETRIES)
@torch.no_grad()
def test_geometries(options, spread):
    conv = spread(nn.Conv2d(8, 8, **{"kernel_size": 3, **options}))
    x = torch.rand(2, 8, 13, 11)
    for packed in (True, False):
        fast = fuse(nn.Sequential(conv, nn.ReLU()), packed=packed)
        torch.testing.assert_close(fast(x), conv(x).relu(), rtol=1e-5, atol=1e-5)


class Sums(nn.Module):
    """Sums that may not be written in place, that broadcast, and one that is two convolutions of the same map."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        y = F.relu(a + b)
        z = self.c(y) + y  # y is read again
        w = (z + y).relu_()
        v = self.a(w) + w.mean((2, 3), keepdim=True)
        u = w.mean((2, 3), keepdim=True) + self.b(v)
        return x + self.c(x), y, z, w, v, u, self.a(u) + self.a(u), self.b(v).add(v, alpha=2), self.deep(v)

    def later(self, x):
        """A term that a convolution reads after the sum."""
        c = self.c(x)
        return (self.a(x) + c).tanh() * self.b(c)

    def deep(self, x):
        """Sums of sums, and every way to write an activation."""
        y = torch.relu(self.a(x) + self.b(x) + self.c(x) + x)
        z = F.relu(self.a(y), inplace=True) + F.gelu(y) + F.leaky_relu(y) + self.b(y).sigmoid_()
        z = z.relu_() + self.later(x)
        return F.gelu(z + 1) + F.leaky_relu(self.b(z) + z + y)


@torch.no_grad()
def test_sums(spread):
    network, x = spread(Sums()).eval(), torch.rand(2, 4, 9, 7)
    kept = x.clone()
    for packed in (True, False):
        fast = fuse(network, packed=packed)
        assert isinstance(fast, fx.GraphModule)
        for ours, theirs in zip(fast(x), network(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert torch.equal(x, kept)


class Written(nn.Module):
    """Writes into what a convolution reads, after it has read it."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        x = x - 0.5
        y = self.conv(x)
        return y + self.relu(x)


class WrittenOtherwise(Written):
    def forward(self, x):
        x = x - 0.5
        y = self.conv(x)
        x.mul_(2)
        return self.relu(y) + x


class ReadAfterwards(Written):
    def forward(self, x):
        x = x - 0.5
        self.relu(x)
        return self.conv(x)


class Branching(nn.Module):
    """Cannot be traced; its stack can."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.stack(x) * self.scale if x.mean() > 0 else x


@pytest.mark.parametrize("network", [Written(), WrittenOtherwise(), ReadAfterwards(), Branching()])
@torch.no_grad()
def test_code_that_needs_care(network, spread):
    network, x = spread(network).eval(), torch.rand(2, 4, 5, 5)
    fast = fuse(network)
    torch.testing.assert_close(fast(x), network(x), rtol=1e-5, atol=1e-5)
    assert any(isinstance(m, FusedConv2d) for m in fast.modules())
    own = {p.data_ptr() for p in network.parameters()}
    assert not any(t.data_ptr() in own for t in [*fast.parameters(), *fast.buffers()] if not t.is_mkldnn)


@pytest.mark.parametrize("packed", [True, False])
def test_no_pictures_and_no_regions(packed):
    """A detector's second stage is given what the first has found: nothing, at times."""
    head = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5), nn.ReLU())
    assert fuse(head, packed=packed)(torch.rand(0, 4, 3, 3)).shape == (0, 5)
    block = fuse(Sums(), packed=packed)
    assert block(torch.rand(0, 4, 9, 7))[0].shape == (0, 4, 9, 7)


@pytest.mark.skipif(not has_onednn(torch.zeros(1), torch.float32), reason="no private calls of oneDNN")
@torch.no_grad()
def test_weights_are_kept_once_an_order_not_once_a_shape():
    conv = nn.Conv2d(256, 512, 1)
    fast = fuse(conv)
    for side in (7, 14, 15, 16, 28, 50, 14):
        x = torch.rand(1, 256, side, side)
        torch.testing.assert_close(fast(x), conv(x), rtol=1e-5, atol=1e-5)
    (layer,) = [m for m in fast.modules() if isinstance(m, FusedConv2d)]
    assert len(layer.by_shape) == 6 and len(layer.by_order) <= 3


class RandomGraph(nn.Module):
    """Convolutions, norms, activations, sums and concatenations of maps drawn at random, some of them handed out."""

    def __init__(self, seed, steps=24):
        super().__init__()
        rng = random.Random(seed)
        kinds = (
            "conv",
            "conv",
            "conv",
            "norm",
            "relu",
            "relu_",
            "sum",
            "sum",
            "sum",
            "gate",
            "twice",
            "pool",
        )
        self.steps = [(rng.choice(kinds), rng.randrange(i + 1), rng.randrange(i + 1)) for i in range(steps)]
        self.steps = [
            (kind, max(a, i - rng.choice((0, 0, 1, 4))), b) for i, (kind, a, b) in enumerate(self.steps)
        ]
        self.steps[-1] = ("conv", steps - 1, 0)
        self.parts = nn.ModuleList(
            {"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4)}.get(k, nn.Identity())
            for k, _, _ in self.steps
        )
        self.handed_out = [*sorted(rng.sample(range(steps), 3)), steps]

    def forward(self, x):
        maps = [x]
        for part, (kind, a, b) in zip(self.parts, self.steps):
            x, y = maps[a], maps[b]
            match kind:
                case "conv" | "norm":
                    maps.append(part(x))
                case "relu":
                    maps.append(x.relu())
                case "relu_":
                    maps.append((x * 1.0).relu_())
                case "sum":
                    maps.append(x + y)
                case "gate":
                    maps.append(x * y.mean((2, 3), keepdim=True).sigmoid())
                case "twice":
                    maps.append(torch.cat([x[:, :2], y[:, 2:]], 1))
                case "pool":
                    maps.append(F.interpolate(F.max_pool2d(x, 2), y.shape[-2:], mode="nearest"))
        return {str(i): maps[i] for i in self.handed_out}


@pytest.mark.parametrize("seed", range(40))
@torch.no_grad()
def test_random_graphs(seed, spread):
    network, x = spread(RandomGraph(seed), seed).eval(), torch.rand(2, 4, 6, 6)
    expected, fast = network(x.clone()), fuse(network)
    assert isinstance(fast, fx.GraphModule)
    for _ in range(2):  # nothing that was handed in or out is overwritten
        given = x.clone()
        for name, value in fast(given).items():
            scale = expected[name].abs().max().item()
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5 * scale)
        assert torch.equal(given, x)
