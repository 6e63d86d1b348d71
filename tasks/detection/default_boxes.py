"""Default boxes: a few sizes and shapes at every position, told as shares of the canvas.

Liu et al. 2016, arXiv:1512.02325, section 2.2, "Choosing scales and aspect ratios for default boxes".
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from retinue.tasks.detection.anchors import Size

Shape = tuple[float, float]
"""Width and height as shares of the canvas's, 1 at most."""


class DefaultBoxes:
    """The default boxes of several maps.

    scales: sides of the square ones as shares of the canvas's, one for each map and one beyond the last. ratios: of
    each map, how many times as wide as high its other boxes are; for each there is one as much higher than wide.
    steps: canvas pixels from one position to the next, of each map; None divides the canvas by the map's size.
    """

    def __init__(
        self, scales: Sequence[float], ratios: Sequence[Sequence[float]], steps: Sequence[float] | None = None
    ) -> None:
        self.shapes = [shapes(scale, after, own) for scale, after, own in zip(scales, scales[1:], ratios)]
        self.steps = steps

    @property
    def per_position(self) -> list[int]:
        """The number of boxes at one position of each map."""
        return [len(of_map) for of_map in self.shapes]

    def __call__(self, canvas: Size, grids: Sequence[Size], device: torch.device) -> Tensor:
        """Default boxes of all maps (a, 4) float32: x1 y1 x2 y2 in canvas pixels, which may lie beyond the canvas."""
        steps = [(s, s) for s in self.steps] if self.steps else [None] * len(grids)
        parts = [
            _grid(own, grid, canvas, step or (canvas[0] / grid[0], canvas[1] / grid[1]), str(device))
            for own, grid, step in zip(self.shapes, grids, steps, strict=True)
        ]
        return torch.cat(parts)


def shapes(scale: float, following: float, ratios: Sequence[float]) -> tuple[Shape, ...]:
    """The boxes of one map: a square, one between it and the following map's, then a wide and a high one a ratio.

    >>> shapes(0.2, 0.8, [4.0])
    ((0.2, 0.2), (0.4, 0.4), (0.4, 0.1), (0.1, 0.4))
    """
    between = (scale * following) ** 0.5
    found = [(scale, scale), (between, between)]
    for ratio in ratios:
        long, short = scale * ratio**0.5, scale / ratio**0.5
        found += [(long, short), (short, long)]
    return tuple((min(w, 1.0), min(h, 1.0)) for w, h in found)


@lru_cache(maxsize=64)
def _grid(
    shapes: tuple[Shape, ...], grid: Size, canvas: Size, step: tuple[float, float], device: str
) -> Tensor:
    y, x = ((torch.arange(count, dtype=torch.float64) + 0.5) * s for count, s in zip(grid, step, strict=True))
    y, x = (place.flatten() for place in torch.meshgrid(y, x, indexing="ij"))
    half = torch.tensor(shapes, dtype=torch.float64) * torch.tensor([canvas[1], canvas[0]]) / 2
    centre = torch.stack([x, y], 1)[:, None]
    return torch.cat([centre - half, centre + half], 2).view(-1, 4).float().to(device)
