"""Regions of pictures as the small squares that a classifier reads, whatever their shape.

Girshick et al. 2014, arXiv:1311.2524, section 2.1 and appendix A: warped anisotropically, with some of what surrounds
them, and with the mean colour where that lies beyond the picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.ops import roi_align

from retinue.tasks.detection.box_coding import picture_sizes


def warp(
    pixels: Tensor,
    sizes: Sequence[tuple[int, int]],
    boxes: Tensor,
    picture: Tensor,
    side: int,
    context: int,
    fill: Tensor,
) -> Tensor:
    """Squares (r, c, side, side) float32 of boxes (r, 4), x1 y1 x2 y2 in canvas pixels.

    pixels: (n, c, H, W); sizes: each picture's own height and width on this canvas. picture: (r,) int64, the one that
    each box is of. `context` of the square's pixels at each of its sides show what surrounds the box. Beyond the
    picture all is `fill` (c,), the mean colour. A box narrower than a pixel is taken as one of a pixel.

    Between pixels' centres, and from the outermost to `fill`, colours are interpolated linearly. Where a pixel of the
    square covers more than one of the picture, it is the mean of as many samples in each direction, rounded up, so
    that nothing aliases: `torchvision.ops.roi_align`, which samples every box in its own way, does both.
    """
    fill = fill.view(-1, 1, 1).to(pixels)
    limits = picture_sizes(sizes, pixels)
    inside = [
        torch.arange(length, device=pixels.device) < limits[:, axis, None]
        for axis, length in enumerate(pixels.shape[-2:])
    ]
    mask = inside[0][:, None, :, None] & inside[1][:, None, None]
    # A rim of one pixel, without which roi_align would repeat the outermost ones at the left and at the top.
    canvas = pad(torch.where(mask, pixels.float() - fill, 0), (1, 1, 1, 1))
    rows = torch.cat([picture[:, None].float(), surround(boxes, side, context) + 1], 1)
    return roi_align(canvas, rows, (side, side), sampling_ratio=-1, aligned=True) + fill


def surround(boxes: Tensor, side: int, context: int) -> Tensor:
    """Boxes (r, 4) float32 enlarged about their centres, so that warped to `side` they leave `context` at each side."""
    low, high = boxes.float().view(-1, 2, 2).unbind(1)
    centre, half = (low + high) / 2, (high - low).clamp(min=1) / 2 * side / (side - 2 * context)
    return torch.cat([centre - half, centre + half], 1)
