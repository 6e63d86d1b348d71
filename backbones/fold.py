"""Batch norm folded into the convolution before it: in evaluation it is one scale and one shift a channel."""

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
