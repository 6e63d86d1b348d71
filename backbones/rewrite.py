"""Graphs of networks rewritten for inference: a convolution takes in the batch norm, sum and activation behind it."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from retinue.backbones.fold import folded, is_foldable
from retinue.backbones.onednn import NONE, Activation, FusedConv2d, FusedLinear, of_module

FUNCTIONS: dict[Any, nn.Module] = {
    **dict.fromkeys((F.relu, F.relu_, torch.relu, torch.relu_), nn.ReLU()),
    **dict.fromkeys((F.sigmoid, torch.sigmoid), nn.Sigmoid()),
    **dict.fromkeys((F.tanh, torch.tanh), nn.Tanh()),
    **{F.relu6: nn.ReLU6(), F.silu: nn.SiLU(), F.hardswish: nn.Hardswish(), F.hardsigmoid: nn.Hardsigmoid()},
    **{F.gelu: nn.GELU(), F.leaky_relu: nn.LeakyReLU()},
}
METHODS: dict[Any, nn.Module] = {
    **dict.fromkeys(("relu", "relu_"), nn.ReLU()),
    **dict.fromkeys(("sigmoid", "sigmoid_"), nn.Sigmoid()),
    **dict.fromkeys(("tanh", "tanh_"), nn.Tanh()),
}
IDLE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, StochasticDepth)
"""What does nothing in evaluation."""
SUMS = (("call_function", operator.add), ("call_function", torch.add), ("call_method", "add"))
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
FUSED = (FusedConv2d, FusedLinear)
WITHOUT_BF16 = (nn.LocalResponseNorm,)


class InFloat32(nn.Module):
    """A module that has no bfloat16, between two casts."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """What the module gives, in the type of `x`."""
        return self.module(x.float()).to(x.dtype)


class Tracer(fx.Tracer):
    """Looks into all modules but torch's own and the few that have a meaning here."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of the module is one node."""
        leaves = (FrozenBatchNorm2d, StochasticDepth, *FUSED)
        return isinstance(m, leaves) or super().is_leaf_module(m, module_qualified_name)


def fuse_graph(module: nn.Module, dtype: torch.dtype, packed: bool) -> fx.GraphModule | None:
    """The module traced, its layers fused and computing in `dtype`; None where tracing fails or nothing can be fused.

    The module is in evaluation mode, and is used up.
    """
    if Tracer().is_leaf_module(module, ""):
        module = nn.Sequential(module)  # a tracer looks into what it is given
    try:
        traced = fx.GraphModule(module, Tracer().trace(module))
    except Exception:  # code that branches on values fails in any way under a tracer
        return None
    if not _without_writing(traced):
        return None
    _drop_idle(traced)
    if not (layers := _find_layers(traced)):
        return None
    made: dict[Any, str] = {}
    for layer in layers:
        if layer.key not in made:
            made[layer.key] = f"fused_{len(made)}_{str(layer.first.target).replace('.', '_')}"
            traced.add_submodule(made[layer.key], layer.make(dtype, packed))
        with traced.graph.inserting_before(layer.last):
            node = traced.graph.call_module(made[layer.key], layer.arguments)
        layer.last.replace_all_uses_with(node)
    traced.graph.eliminate_dead_code()
    for node in traced.graph.nodes:
        called = _called(node, traced)
        if isinstance(called, WITHOUT_BF16) and dtype == torch.bfloat16:
            traced.set_submodule(node.target, InFloat32(called))
    overwrite(traced.graph, traced)
    traced = fx.GraphModule(traced, traced.graph)  # without the modules that nothing calls any more
    for part in traced.modules():
        if not isinstance(part, FUSED):
            own_tensors(part, None if isinstance(part, NORMS) else dtype)
    return traced.eval()  # type: ignore[return-value]


def own_tensors(module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Replace a module's own parameters and buffers by copies without gradient; floating ones in `dtype`."""
    for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        copy = tensor.detach().to(dtype if dtype and tensor.is_floating_point() else tensor.dtype, copy=True)
        is_parameter = isinstance(tensor, nn.Parameter)
        setattr(module, name, nn.Parameter(copy, requires_grad=False) if is_parameter else copy)


@dataclass
class _Layer:
    """Nodes of a graph that become one: a convolution or linear layer, and what follows it up to `last`."""

    first: fx.Node
    last: fx.Node
    module: nn.Module
    norm: nn.Module | None = None
    sum: fx.Node | None = None
    other: int = 0
    """Which of the sum's two terms is not the convolution."""
    activation: Activation = NONE

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for layers that compute the same with the same weights."""
        return id(self.module), id(self.norm), self.sum is not None, self.activation

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the one node is called with, as the graph has it by now."""
        return self.first.args if self.sum is None else (*self.first.args, self.sum.args[self.other])

    def make(self, dtype: torch.dtype, packed: bool) -> nn.Module:
        if isinstance(self.module, nn.Linear):
            return FusedLinear(self.module, self.activation, dtype, packed)
        assert isinstance(self.module, nn.Conv2d)
        weight, bias = folded(self.module, self.norm)
        residual = self.sum is not None
        return FusedConv2d(self.module, weight, bias, self.activation, residual, dtype, packed)


def _called(node: fx.Node | None, modules: nn.Module) -> nn.Module | None:
    return modules.get_submodule(str(node.target)) if node and node.op == "call_module" else None


def _drop_idle(traced: fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        if isinstance(_called(node, traced), IDLE):
            node.replace_all_uses_with(node.args[0])
    traced.graph.eliminate_dead_code()


def _without_writing(traced: fx.GraphModule) -> bool:
    """Let all activations give new maps; False where code relies on what is written in place, or writes otherwise."""
    place = {node: i for i, node in enumerate(traced.graph.nodes)}
    activations = []
    for node in place:
        module, name = _called(node, traced), str(getattr(node.target, "__name__", node.target))
        in_place = bool(node.kwargs.get("inplace") or getattr(module, "inplace", False))
        in_place |= module is None and name.endswith("_") and not name.endswith("__")
        if _activation(node, traced) or hasattr(module, "inplace"):
            activations.append(node)
            reads: Any = node.args[0]
            seen = reads.op == "placeholder" or any(place[user] > place[node] for user in reads.users)
            if in_place and seen:
                return False
        elif in_place or name in ("setitem", "iadd", "imul") or "out" in node.kwargs:
            return False
    for node in activations:
        if (module := _called(node, traced)) is not None:
            module.inplace = False  # type: ignore[assignment]
        elif isinstance(node.target, str):
            node.target = node.target.removesuffix("_")
        else:
            node.target = F.relu if node.target in (F.relu_, torch.relu_) else node.target
            node.kwargs = {}
    return True


def _find_layers(traced: fx.GraphModule) -> list[_Layer]:
    """The layers in the order of the graph; no node is in two."""
    place = {node: i for i, node in enumerate(traced.graph.nodes)}
    layers: dict[fx.Node, _Layer] = {}  # by their last nodes
    for node in place:
        module = _called(node, traced)
        if module is None or not _is_plain(module) or len(node.args) != 1 or node.kwargs:
            continue
        layer = _Layer(node, node, module)
        follower = _only_user(node)
        norm = _called(follower, traced)
        if follower and norm and isinstance(module, nn.Conv2d) and is_foldable(norm):
            layer.last, layer.norm = follower, norm
        layers[layer.last] = layer
    for node in place:
        ends = [a for a in _terms(node) if a in layers and _only_user(a)]
        ends = [a for a in ends if isinstance(layers[a].module, nn.Conv2d) and layers[a].sum is None]
        if ends:
            end = max(ends, key=lambda a: place[layers[a].first])  # by then the other term is computed
            layer = layers[node] = layers.pop(end)
            layer.last, layer.sum, layer.other = node, node, 1 - node.args.index(end)
    for layer in layers.values():
        follower = _only_user(layer.last)
        activation = _activation(follower, traced)
        if follower and activation and (layer.sum is None or activation.name == "relu"):
            layer.last, layer.activation = follower, activation
    return sorted(layers.values(), key=lambda layer: place[layer.last])


def _is_plain(module: nn.Module) -> bool:
    """Whether it is a linear layer or a convolution with zeros around the map, and no subclass with its own ways."""
    if type(module) is nn.Conv2d:
        return module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return type(module) is nn.Linear


def _only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads a value; None where there are others or the value is an output."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op != "output" else None


def _terms(node: fx.Node) -> tuple[fx.Node, ...]:
    """The two values that a node adds; none where it does something else."""
    a, b = node.args if (node.op, node.target) in SUMS and len(node.args) == 2 else (None, None)
    if isinstance(a, fx.Node) and isinstance(b, fx.Node) and a is not b and not node.kwargs:
        return a, b
    return ()


def _activation(node: fx.Node | None, modules: nn.Module) -> Activation | None:
    module = _called(node, modules)
    if node and module is None and len(node.args) == 1 and node.kwargs.keys() <= {"inplace"}:
        module = {"call_function": FUNCTIONS, "call_method": METHODS}.get(node.op, {}).get(node.target)
    return of_module(module) if module is not None else None


def overwrite(graph: fx.Graph, modules: nn.Module) -> None:
    """Let sums and ReLUs write into what they read where nothing else does: new memory costs more than the sum."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in place:
        module = _called(node, modules)
        reads: list[Any] = list(node.args)
        if isinstance(module, FusedConv2d) and len(reads) == 2:
            x, other = reads
            free = x is not other and _is_new(other, modules)
            readers = [user for user in other.users if user is not node]
            free &= all(isinstance(_called(r, modules), FUSED) and place[r] < place[node] for r in readers)
            node.kwargs = {"in_place": True} if free else {}
        elif type(module) is nn.ReLU and _is_new(reads[0], modules) and len(reads[0].users) == 1:
            node.op, node.target, node.kwargs = "call_function", torch.relu_, {}


def _is_new(node: Any, modules: nn.Module) -> bool:
    """Whether a value has memory of its own."""
    return node.target in (F.interpolate, torch.cat) or isinstance(
        _called(node, modules), (FusedConv2d, nn.BatchNorm2d)
    )
