"""Strides turned into dilations: a classifier's deep maps at a finer stride, with the same weights.

Yu & Koltun 2015 (arXiv:1511.07122); Chen et al. 2017 (arXiv:1706.05587), section 3.1.
"""

from collections.abc import Iterable, Sequence

from torch import nn

from retinue.backbones.backbone import Backbone, Level
from retinue.backbones.neck import Neck

SIDE = 256
"""Of the pictures on which the new strides are checked."""


def dilate(backbone: Backbone, max_stride: int) -> None:
    """Change a backbone, in place, so that none of its maps is coarser than `max_stride`.

    A stage that would pass that stride keeps the size of the map before it; its later layers, and all stages behind
    it, space their kernels out by the stride that was taken away. Every k-th position of a new map is then what the
    old one was, k being the ratio of their strides, but for layers that average over the whole map. Weights keep their
    names and shapes; `options` remember the stride, so that `build` makes the same network again. A ResNet of
    bottlenecks becomes the one of `replace_stride_with_dilation`.

    Raises ValueError where strides are not those of convolutions or maxima with kernels of odd size (VGG's poolings,
    ConvNeXt), and for a pyramid, whose body is to be dilated before it is built. The backbone is spoilt then.
    """
    if max(level.stride for level in backbone.levels.values()) <= max_stride:
        return
    if isinstance(backbone, Neck):
        raise ValueError("a pyramid's strides stay: dilate its body before it gets the pyramid")
    levels, before, taken = dict(backbone.levels), 1, 1
    for name, modules in backbone.stages().items():
        channels, stride = levels[name].channels, levels[name].stride
        step = stride // before if stride // taken > max_stride else 1
        _space_out([layer for module in modules for layer in module.modules()], taken, step)
        before, taken = stride, taken * step
        levels[name] = Level(channels, stride // taken)
    backbone.levels = levels
    backbone.options["max_stride"] = max_stride
    _check(backbone)


def _check(backbone: Backbone) -> None:
    """Raises ValueError unless the maps have the sizes that the strides say."""
    try:
        sizes = backbone.output_sizes(SIDE, SIDE)
    except ValueError:  # a shortcut that kept its stride no longer fits its sum
        sizes = {}
    if any(sizes.get(name, (0, 0))[0] * level.stride != SIDE for name, level in backbone.levels.items()):
        raise ValueError(f"the strides of {backbone.architecture} cannot all become dilations")


def _space_out(layers: Iterable[nn.Module], spacing: int, step: int) -> None:
    """Widen the kernels to `spacing`, those behind the first layer of stride `step` > 1 to `spacing * step`.

    Strides of `step` become 1: such layers still read the map as it was before.
    """
    after = spacing
    for layer in layers:
        if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            continue
        wider = after
        if step > 1 and _pair(layer.stride) == (step, step):
            layer.stride, wider, after = (1, 1), spacing, spacing * step
        if wider == 1 or _pair(layer.kernel_size) == (1, 1):
            continue
        layer.dilation = tuple(wider * side for side in _pair(layer.dilation))
        if not isinstance(layer.padding, str):
            layer.padding = tuple(wider * side for side in _pair(layer.padding))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
