"""Anchors: boxes of a few sizes and shapes at every position of a map (Ren et al. 2015, arXiv:1506.01497, 3.1.1)."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

Size = tuple[int, int]
"""(height, width)."""


class Anchors:
    """The anchors of several maps.

    sizes: for each map the sides, in canvas pixels, of its square anchors. ratios: height over width, of every map; an
    anchor of another shape has the same area. There are `len(sizes[i]) * len(ratios)` at a position of map i: all
    sizes of the first shape, then all of the second.
    """

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> None:
        self.cells = [cell_anchors(of_map, ratios) for of_map in sizes]

    @property
    def per_position(self) -> list[int]:
        """The number of anchors at one position of each map."""
        return [len(cell) for cell in self.cells]

    def __call__(self, canvas: Size, grids: Sequence[Size], device: torch.device) -> list[Tensor]:
        """Anchors (rows * columns * per position, 4) float32 of each map: x1 y1 x2 y2 in canvas pixels.

        A step from one position to the next is the canvas's side over the map's, rounded down, as in torchvision:
        where a map was rounded up (p6 of an 800 pixel canvas has 13 rows), steps are shorter than its stride.
        """
        return [
            _grid(cell, grid, (canvas[0] // grid[0], canvas[1] // grid[1]), str(device))
            for cell, grid in zip(self.cells, grids, strict=True)
        ]


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """x1 y1 x2 y2 around the origin, rounded to whole pixels.

    >>> cell_anchors([32], [1.0, 0.5])
    ((-16.0, -16.0, 16.0, 16.0), (-23.0, -11.0, 23.0, 11.0))
    """
    heights = torch.tensor(ratios, dtype=torch.float32).sqrt()
    side = torch.tensor(sizes, dtype=torch.float32)
    h = (heights[:, None] * side).flatten()
    w = (heights.reciprocal()[:, None] * side).flatten()
    return tuple(tuple(row) for row in (torch.stack([-w, -h, w, h], 1) / 2).round().tolist())


@lru_cache(maxsize=64)  # training at several scales meets the same few grids again and again
def _grid(cell: tuple[tuple[float, ...], ...], grid: Size, step: Size, device: str) -> Tensor:
    y = torch.arange(grid[0], dtype=torch.float32, device=device) * step[0]
    x = torch.arange(grid[1], dtype=torch.float32, device=device) * step[1]
    y, x = (place.flatten() for place in torch.meshgrid(y, x, indexing="ij"))
    corners = torch.stack([x, y, x, y], 1)
    return (corners[:, None] + torch.tensor(cell, device=device)).view(-1, 4)
