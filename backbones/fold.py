"""Batch norm folded into the convolution before it, and back: in evaluation it is one scale and one shift a channel."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


def is_foldable(norm: nn.Module) -> bool:
    """Whether a module is a batch norm over maps that has statistics and does not gather new ones."""
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return type(norm) is nn.BatchNorm2d and not norm.training and norm.running_var is not None


@torch.no_grad()
def folded(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """(weight, bias) of the convolution that gives what `conv`, then `norm` give.

    With mean m, variance v, scale g and shift b of the norm (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 2):
    weight * g / sqrt(v + eps) and (bias - m) * g / sqrt(v + eps) + b, computed in float64, returned in the weight's
    type; new tensors. `norm` is None or as `is_foldable` has it.
    """
    weight = conv.weight.double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
    if norm is not None:
        mean, variance = norm.running_mean, norm.running_var
        assert isinstance(mean, Tensor) and isinstance(variance, Tensor)
        scale = (variance.double() + float(norm.eps)).rsqrt()  # type: ignore[arg-type]
        if isinstance(norm.weight, Tensor):
            scale = scale * norm.weight.double()
        weight, bias = weight * scale.view(-1, 1, 1, 1), (bias - mean.double()) * scale
        if isinstance(norm.bias, Tensor):
            bias = bias + norm.bias.double()
    dtype = conv.weight.dtype
    return weight.to(dtype, copy=True), bias.to(dtype, copy=True)


def is_folded(norm: nn.Module) -> bool:
    """Whether a batch norm only adds its bias: what is left of one that was folded into its convolution.

    Known by its numbers, mean 0, variance 1 - eps and weight 1, which no training leaves and no new one has.
    """
    if type(norm) is not nn.BatchNorm2d or norm.running_var is None or not norm.affine:
        return False
    assert norm.running_mean is not None
    off = (norm.running_var + norm.eps - 1).abs()
    exact = min(1e-6, norm.eps / 2)  # darknet's epsilon is so small that a new norm is near
    return bool((norm.running_mean == 0).all() and (norm.weight == 1).all() and (off < exact).all())


def folded_norm(norm: nn.BatchNorm2d, bias: Tensor) -> dict[str, Tensor]:
    """The state of `norm`, by its keys, in which it only adds `bias` (channels,): see `is_folded`."""
    ones = torch.ones_like(bias)
    return {
        "weight": ones,
        "bias": bias,
        "running_mean": torch.zeros_like(bias),
        "running_var": ones - norm.eps,
    }


@torch.no_grad()
def unfold(network: nn.Module, batches: Iterable[Callable[[], object]]) -> list[str]:
    """Give the folded batch norms of a network their statistics back, estimated on batches; returns their names.

    batches: each runs the network once. It computes in evaluation mode, in which the folded network is what it was
    trained to be, so that one pass serves all layers. With the mean m and the variance v of what a norm reads, its
    mean becomes m, its variance v, its weight sqrt(v + eps) and its bias b + m, b being the bias before: in evaluation
    it gives what it gave, to rounding, and in training it normalises by statistics near those.
    """
    found = {
        name: norm
        for name, norm in network.named_modules()
        if isinstance(norm, nn.BatchNorm2d) and is_folded(norm)
    }
    moments = {norm: _Moments() for norm in found.values()}
    hooks = [norm.register_forward_pre_hook(lambda m, x: moments[m].add(x[0])) for norm in moments]
    training = {module: module.training for module in network.modules()}
    network.eval()
    for run in batches:
        run()
    for hook in hooks:
        hook.remove()
    for module, mode in training.items():
        module.training = mode
    for norm, moment in moments.items():
        if moment.count:
            mean, variance = moment.mean_and_variance()
            assert norm.running_mean is not None and norm.running_var is not None
            norm.bias.add_(mean)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
    return list(found)


class _Moments:
    """Sums over all positions of maps (n, channels, h, w), in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        x = x.double()
        self.count += x.numel() // x.shape[1]
        self.total = self.total.to(x) + x.sum((0, 2, 3))
        self.squares = self.squares.to(x) + x.square().sum((0, 2, 3))

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        mean = self.total / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0)
