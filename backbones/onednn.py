"""Layers for inference only: convolution or linear, activation and residual sum in one call on prepacked weights.

The calls are oneDNN's, through operators of torch that are not public (`torch.ops.mkldnn`): this file is the only one
that names them. Where they are missing (another device, another build of torch) the same layers compute with public
functions, and give the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEEDED = (
    *("_reorder_convolution_weight", "_convolution_pointwise", "_convolution_pointwise_"),
    *(
        "_reorder_linear_weight",
        "_linear_pointwise",
        "_is_mkldnn_bf16_supported",
        "_get_mkldnn_serialized_md",
    ),
)


@dataclass(frozen=True)
class Activation:
    """A function of each value: what computes it, and its name and numbers in oneDNN."""

    plain: Callable[[Tensor], Tensor] = field(compare=False)
    name: str
    scalars: tuple[float, ...] = ()
    algorithm: str = ""


NONE = Activation(lambda x: x, "none")
RELU = Activation(F.relu, "relu")


def of_module(module: nn.Module) -> Activation | None:
    """The activation that a module computes; None where it is none that oneDNN has."""
    match module:
        case nn.ReLU6():
            return Activation(F.relu6, "hardtanh", (0.0, 6.0))
        case nn.Hardtanh(min_val=low, max_val=high):
            return Activation(partial(F.hardtanh, min_val=low, max_val=high), "hardtanh", (low, high))
        case nn.LeakyReLU(negative_slope=slope):
            return Activation(partial(F.leaky_relu, negative_slope=slope), "leaky_relu", (slope,))
        case nn.GELU(approximate=algorithm):
            return Activation(partial(F.gelu, approximate=algorithm), "gelu", (), algorithm)
    return {
        nn.ReLU: RELU,
        nn.SiLU: Activation(F.silu, "swish"),
        nn.Hardswish: Activation(F.hardswish, "hardswish"),
        nn.Hardsigmoid: Activation(F.hardsigmoid, "hardsigmoid"),
        nn.Sigmoid: Activation(torch.sigmoid, "sigmoid"),
        nn.Tanh: Activation(torch.tanh, "tanh"),
    }.get(type(module))


def has_onednn(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether the private operators can be used for a weight, in this type of number."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in NEEDED):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class FusedConv2d(nn.Module):
    """activation(convolution(x) + other), channels last.

    `weight` (outputs, inputs / groups, kh, kw) and `bias` (outputs,) are taken as they are folded; `residual` says
    that `forward` is given an `other`, and then `activation` is NONE or RELU. `packed=False` asks for the plain path.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        weight: Tensor,
        bias: Tensor,
        activation: Activation = NONE,
        residual: bool = False,
        dtype: torch.dtype = torch.float32,
        packed: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.padding = list(conv.stride), [int(p) for p in conv.padding]
        self.dilation, self.groups, self.kernel = list(conv.dilation), conv.groups, conv.kernel_size
        self.outputs, self.activation, self.dtype = conv.out_channels, activation, dtype
        self.packed = packed and has_onednn(weight, dtype)
        weight = weight.to(dtype, memory_format=torch.channels_last)
        # the sum is computed in the type of the maps, and takes no other bias; alone, a float32 bias costs nothing
        exact = self.packed and not residual
        self.register_buffer("bias", bias if exact else bias.to(dtype), persistent=False)
        self.register_buffer("weight", weight, persistent=False)
        self.by_shape: dict[tuple[int, ...], Tensor] = {}
        self.by_order: dict[bytes, Tensor] = {}

    def forward(self, x: Tensor, other: Tensor | None = None, in_place: bool = False) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h', w'), which `other` must be too, or broadcast to.

        `in_place`: `other` may be overwritten by the result.
        """
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if not self.packed or not x.numel():
            return self._plain(x, other)
        mkldnn, activation, weight = torch.ops.mkldnn, self.activation, self._arranged(x)
        geometry = (self.padding, self.stride, self.dilation, self.groups)
        if other is None:
            scalars, algorithm = list(activation.scalars), activation.algorithm
            return mkldnn._convolution_pointwise.default(
                x, weight, self.bias, *geometry, activation.name, scalars, algorithm
            )
        if other.shape != self._shape(x) or other.dtype != self.dtype:
            bare = mkldnn._convolution_pointwise.default(x, weight, self.bias, *geometry, "none", [], "")
            return activation.plain(bare + other)
        unary = None if activation.name == "none" else activation.name
        after: tuple[Any, ...] = ("add", None, unary, [], None)
        if in_place and other.is_contiguous(memory_format=torch.channels_last):
            return mkldnn._convolution_pointwise_.binary(other, x, weight, self.bias, *geometry, *after)
        return mkldnn._convolution_pointwise.binary(x, other, weight, self.bias, *geometry, *after)

    def _arranged(self, x: Tensor) -> Tensor:
        """The weight in the order that oneDNN reads it in for maps of this shape.

        Given another order it rearranges in every call, and up to fifty times as long as the convolution takes. There
        are two or three orders for all shapes, and each is kept once.
        """
        key = (*x.shape, torch.get_num_threads())
        if key not in self.by_shape:
            if len(self.by_shape) >= 1000:
                self.by_shape.clear()
            geometry = (self.padding, self.stride, self.dilation, self.groups)
            weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *geometry, list(x.shape))
            order = torch.ops.mkldnn._get_mkldnn_serialized_md(weight).numpy().tobytes()
            self.by_shape[key] = self.by_order.setdefault(order, weight)
        return self.by_shape[key]

    def _plain(self, x: Tensor, other: Tensor | None) -> Tensor:
        if self.packed:  # an empty batch
            x = x.new_empty(self._shape(x))
        else:
            weight, bias = self.get_buffer("weight"), self.get_buffer("bias")
            x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return self.activation.plain(x if other is None else x + other)

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        geometry = zip(x.shape[2:], self.padding, self.dilation, self.kernel, self.stride)
        return len(x), self.outputs, *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in geometry)


class FusedLinear(nn.Module):
    """activation(x weight^T + bias); `packed=False` asks for the plain path."""

    def __init__(
        self,
        linear: nn.Linear,
        activation: Activation = NONE,
        dtype: torch.dtype = torch.float32,
        packed: bool = True,
    ) -> None:
        super().__init__()
        self.outputs, self.activation, self.dtype = linear.out_features, activation, dtype
        weight = linear.weight.detach().to(dtype, copy=True)
        self.packed = packed and has_onednn(weight, dtype)
        if self.packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        bias = None if linear.bias is None else linear.bias.detach().to(dtype, copy=True)
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        x, activation = x.to(self.dtype), self.activation
        if not self.packed:
            return activation.plain(F.linear(x, self.get_buffer("weight"), self.bias))  # type: ignore[arg-type]
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.outputs)
        return torch.ops.mkldnn._linear_pointwise.default(
            x, self.weight, self.bias, activation.name, list(activation.scalars), activation.algorithm
        )
