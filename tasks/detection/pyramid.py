"""The feature pyramid that detectors put over a plain trunk."""

from collections.abc import Sequence
from dataclasses import replace

from retinue.backbones.backbone import Backbone, Preprocessing
from retinue.backbones.fpn import FPN, Extra
from retinue.datasets.targets import DataError

DIVISOR = 32
"""The canvas's sides are multiples of it."""


def with_pyramid(
    backbone: Backbone, asked: Sequence[str], channels: int, extra: Extra, otherwise: str = ""
) -> Backbone:
    """The backbone under an FPN of `channels` over those levels that are asked for, as far as it has them.

    One that is an FPN already stays as it is. `otherwise`: what else the message may suggest. Raises DataError for
    levels that the backbone does not have or that cannot be continued.
    """
    if isinstance(backbone, FPN):
        return backbone
    if channels < 1:
        raise DataError(f"pyramid_channels={channels}: a pyramid's maps have at least one channel")
    levels = [name for name in backbone.levels if name in asked]  # finest first, however they are given
    if not levels or not levels[-1][1:].isdigit():  # the coarser level above the last is numbered after it
        raise DataError(
            f"pyramid_levels={','.join(asked)}: the backbone has {list(backbone.levels)}, and the last one must "
            f"be a c{otherwise}"
        )
    return FPN(backbone, levels, channels, extra)


def own_levels(backbone: Backbone) -> tuple[str, ...]:
    """The names of an FPN's own levels, finest first. Raises DataError for another backbone."""
    if not isinstance(backbone, FPN):
        raise DataError(
            f"{backbone.architecture} has no pyramid: build the task on `trunk_for(backbone, {{}})`"
        )
    return tuple(name for name in backbone.levels if name not in backbone.body.levels)


def on_whole_cells(backbone: Backbone) -> Preprocessing:
    """The backbone's preprocessing from now on: a canvas of whole steps of c5, so that p5 and p6 are not rounded
    differently."""
    backbone.prepare_for(replace(backbone.preprocessing, divisor=DIVISOR))
    return backbone.preprocessing
