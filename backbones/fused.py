"""Networks made ready for inference: convolution, batch norm, activation and residual sum become one call.

fast = fuse(backbone, torch.bfloat16)
maps = fast(pictures, ("c4", "c5"))
"""

from collections.abc import Collection, Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from retinue.backbones.backbone import Backbone, Features
from retinue.backbones.rewrite import Tracer, fuse_graph, overwrite, own_tensors

LISTS = (nn.ModuleList, nn.ModuleDict)
"""Their parts are called by the module that has them; all others of torch's own call theirs."""


def fuse(module: nn.Module, dtype: torch.dtype | None = None, packed: bool = True) -> nn.Module:
    """A copy for inference that computes what `module` does in evaluation mode, in `dtype` (its own where None).

    The copy shares nothing with the module, which stays as it is. A `Backbone` gives a `Backbone` of the same levels,
    whose maps are channels last and of `dtype`; it normalises pictures in float32. Any other module gives one that is
    called in the same way, whose attributes may be other ones; its layers bring what they read to `dtype`.

    What torch.fx cannot trace, because it branches on values, keeps its own code: a backbone then gains the memory
    format and bfloat16 only, and of another module the parts are fused, each by itself.
    `packed=False` does without the weights that oneDNN has arranged for itself.
    """
    if isinstance(module, Backbone):
        return FusedBackbone(module, dtype or torch.float32, packed)
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return _fuse_parts(_same_tensors(module).eval(), dtype or own, packed)


class FusedBackbone(Backbone):
    """What `fuse` makes of a backbone: it stays in evaluation mode, and has nothing to train or to take off."""

    def __init__(self, backbone: Backbone, dtype: torch.dtype, packed: bool = True) -> None:
        super().__init__(backbone.in_channels, backbone.preprocessing)
        self.to(backbone.mean.device)
        for name in ("levels", "architecture", "options", "weights", "new_top", "categories"):
            setattr(self, name, deepcopy(getattr(backbone, name)))
        self.frozen_stages, self.frozen_norm = backbone.frozen_stages, backbone.frozen_norm
        self.removed_stages, self.stage_names = backbone.removed_stages, tuple(backbone.trunk())
        self.dtype = dtype
        self.shapes = (_without_memory(backbone),)  # in a tuple: no part of this module
        self.selections: dict[frozenset[str], fx.GraphModule] = {}
        copy: Any = _same_tensors(backbone).eval()
        self.normalises = not copy.absorb_normalisation()
        for part in copy.modules():
            if isinstance(part, Backbone):
                part.normalise = _same  # type: ignore[method-assign, assignment]
        self.network = fuse_graph(_AllMaps(copy), dtype, packed) or _by_itself(copy)
        super().train(False)

    def forward(self, images: Tensor, levels: Collection[str] | None = None) -> Features:
        """As in `Backbone`; maps of `dtype`, channels last."""
        wanted = self.wanted(levels)
        x = self.normalise(images.float()) if self.normalises else images
        x = x.to(self.dtype, memory_format=torch.channels_last)
        if isinstance(self.network, fx.GraphModule):
            maps = self._selection(frozenset(wanted))(x)
        else:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                maps = self.network(x, wanted)
        if "image" in maps and not self.normalises:
            maps = {**maps, "image": self.normalise(images.float())}
        return {
            name: m.to(self.dtype).contiguous(memory_format=torch.channels_last) for name, m in maps.items()
        }

    def _selection(self, wanted: frozenset[str]) -> fx.GraphModule:
        """The part of the network that the wanted levels need."""
        if wanted not in self.selections:
            assert isinstance(self.network, fx.GraphModule)
            part = fx.GraphModule(self.network, deepcopy(self.network.graph))
            output = next(iter(reversed(part.graph.nodes)))
            maps: Any = output.args[0]
            output.args = ({name: node for name, node in maps.items() if name in wanted},)
            part.graph.eliminate_dead_code()
            overwrite(part.graph, part)
            part.recompile()
            self.selections[wanted] = part
        return self.selections[wanted]

    def trunk(self) -> dict[str, Sequence[nn.Module]]:
        """The names of the stages, whose modules are no longer apart."""
        return dict.fromkeys(self.stage_names, ())

    def output_sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """As in `Backbone`: the fused network's own code says it."""
        return self.shapes[0].output_sizes(height, width)

    def train(self, mode: bool = True) -> "FusedBackbone":
        """Nothing: it stays in evaluation mode."""
        return self


def _same(x: Tensor) -> Tensor:
    return x


class _AllMaps(nn.Module):
    """A backbone asked for all levels, for tracing."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Features:
        return self.backbone(x)


def _same_tensors(module: nn.Module) -> nn.Module:
    """A copy of the modules on the same tensors: it takes no memory, and may be taken apart."""
    return deepcopy(module, {id(t): t for t in chain(module.parameters(), module.buffers())})


def _without_memory(backbone: Backbone) -> Backbone:
    """A copy whose tensors have shapes only."""
    memo: dict[int, Any] = {id(b): torch.empty_like(b, device="meta") for b in backbone.buffers()}
    for p in backbone.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
    return deepcopy(backbone, memo)


def _by_itself(module: nn.Module) -> nn.Module:
    """The module, its tensors its own."""
    for part in module.modules():
        own_tensors(part)
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _fuse_parts(module: nn.Module, dtype: torch.dtype, packed: bool) -> nn.Module:
    if fused := fuse_graph(module, dtype, packed):
        return fused
    if Tracer().is_leaf_module(module, "") and not isinstance(module, LISTS):
        return _by_itself(module)
    own_tensors(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _fuse_parts(child, dtype, packed))
    return module
