"""Heat maps of keypoints in boxes: where each has its maximum, and which cell of it a keypoint is.

He et al. 2017 (arXiv:1703.06870), section 5. The answer is that of torchvision's `heatmaps_to_keypoints`: every map
is enlarged to its box by bicubic interpolation, and the largest pixel wins. But no map is enlarged here: of a map's
cells nearly all are bounded away from the maximum by the 4 x 4 values that they are interpolated from.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

A = -0.75
"""The parameter of torch's bicubic kernel."""
NEGATIVE = 0.1875
"""What the two outer weights of that kernel sum up to at most, without their sign; inner and outer sum up to 1."""
MAPS_AT_ONCE = 256
"""Maps that are searched together: their bounds fit the cache."""
VALUES_AT_ONCE = 1 << 21
"""Interpolated values in memory at once."""


def heatmaps_to_keypoints(heatmaps: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The place of the maximum of every heat map, enlarged to its box, and its value.

    heatmaps: (r, k, h, w) logits. boxes: (r, 4) x1 y1 x2 y2. Gives (r, k, 3) float32: x, y in the boxes' frame and 1;
    and (r, k) float32, the logits there. The maximum is taken over the centres of the box's whole pixels; of equal
    ones the first counts, row by row. A map that is not finite has its keypoint in the box's first pixel.
    """
    heatmaps, boxes = heatmaps.detach().float(), boxes.detach().float()
    r, k = heatmaps.shape[:2]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1)
    pixels = sides.ceil().long()
    places = torch.zeros(r, k, 2, device=boxes.device)
    scores = torch.zeros(r, k, device=boxes.device)
    by_size = torch.argsort(pixels.prod(1))
    for some in by_size.split(max(1, MAPS_AT_ONCE // max(k, 1))) if r and k else ():
        place, scores[some] = _maxima(heatmaps[some], pixels[some])
        places[some] = (place + 0.5) * (sides / pixels)[some][:, None]
    places += boxes[:, None, :2]
    return torch.cat([places, torch.ones_like(scores)[..., None]], dim=2), scores


def _maxima(heatmaps: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row (r, k, 2) of the largest pixel of maps (r, k, h, w) enlarged to `pixels` (r, 2) (w, h); its value.

    Interpolated values between the same 4 x 4 values of a map are a cell. Only those cells are interpolated whose
    upper bound reaches a pixel that is known.
    """
    r, k, h, w = heatmaps.shape
    across, down = _Axis(pixels[:, 0], w), _Axis(pixels[:, 1], h)
    padded = F.pad(heatmaps, (2, 2, 2, 2), mode="replicate").flatten(0, 1)
    bounds = _upper_bounds(padded).view(r, k, h + 1, w + 1)
    used = down.used[:, None, :, None] & across.used[:, None, None, :]
    if not used.all():  # a map is made smaller: some cells have no pixel
        bounds = bounds.masked_fill_(~used, -torch.inf)
    # A pixel that is known: one of the cell of the highest bound.
    best = bounds.flatten(2).argmax(2).flatten()
    maps = torch.arange(r * k, device=best.device)
    rows, columns = best // (w + 1), best % (w + 1)
    known = _interpolate(padded, maps, rows, columns, down, across)[0]
    enough = (known - 1e-5 * (1 + known.abs())).view(r, k)[..., None, None]
    maps, rows, columns = (bounds >= enough).flatten(0, 1).nonzero(as_tuple=True)
    value, place = _interpolate(padded, maps, rows, columns, down, across)
    scores = known.new_full((r * k,), -torch.inf).scatter_reduce(0, maps, value, "amax")
    width = pixels[:, 0].repeat_interleave(k)
    position = place[:, 1] * width[maps] + place[:, 0]
    wins = value == scores[maps]
    last = torch.iinfo(torch.int64).max
    first = torch.full_like(width, last).scatter_reduce(0, maps[wins], position[wins], "amin")
    found = first < last
    first = first.where(found, 0)
    scores = scores.where(found, torch.nan)
    return torch.stack([first % width, first // width], 1).view(r, k, 2), scores.view(r, k)


class _Axis:
    """One axis of boxes of `pixels` (r,): which pixels are in each cell between a map's `size` values, and where in it.

    Cell c, from 0 to `size`, is between values c - 1 and c.
    """

    def __init__(self, pixels: Tensor, size: int) -> None:
        cells = torch.arange(size + 2, device=pixels.device)
        edges = (cells - 0.5).double() * (pixels[:, None] / size) - 0.5
        starts = edges.ceil().long().clamp_min(0).minimum(pixels[:, None])
        counts = starts.diff()
        self.used = counts > 0
        """(r, size + 1) bool: cells with a pixel."""
        self.most = max(1, int(counts.max()))
        steps = torch.arange(self.most, device=pixels.device).minimum((counts[..., None] - 1).clamp_min(0))
        self.places = starts[:, :-1, None] + steps
        """(r, size + 1, most) int64: the pixels of each cell, the last one repeated."""
        t = (size / pixels.float())[:, None, None] * (self.places + 0.5) - 0.5 - (cells[:-1, None] - 1)
        self.weights = _bicubic(t.clamp(0, 1))
        """(r, size + 1, most, 4): of the four values around."""


def _interpolate(
    padded: Tensor, maps: Tensor, rows: Tensor, columns: Tensor, down: _Axis, across: _Axis
) -> tuple[Tensor, Tensor]:
    """The largest pixel in each of m cells: its value (m,), and its column and row (m, 2)."""
    boxes = maps // (len(padded) // len(down.used))
    values, places = [padded.new_zeros(0)], [maps.new_zeros(0, 2)]
    step = max(1, VALUES_AT_ONCE // max(down.most * across.most, 16))
    taps = torch.arange(4, device=maps.device)
    for part in range(0, len(maps), step):
        m, b, y, x = (t[part : part + step] for t in (maps, boxes, rows, columns))
        start = (m * padded.shape[1] + y) * padded.shape[2] + x
        patch = padded.flatten()[start[:, None, None] + taps[:, None] * padded.shape[2] + taps]
        enlarged = down.weights[b, y] @ (patch @ across.weights[b, x].mT)
        value, best = enlarged.flatten(1).max(1)
        values.append(value)
        column, row = across.places[b, x, best % across.most], down.places[b, y, best // across.most]
        places.append(torch.stack([column, row], dim=1))
    return torch.cat(values), torch.cat(places)


def _bicubic(t: Tensor) -> Tensor:
    """The weights (..., 4) of four values in a row at t in [0, 1] between the inner two (Keys 1981)."""

    def near(x: Tensor) -> Tensor:
        return ((A + 2) * x - (A + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((A * x - 5 * A) * x + 8 * A) * x - 4 * A

    return torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], dim=-1)


def _upper_bounds(padded: Tensor) -> Tensor:
    """What interpolation cannot exceed in any cell: maps (n, h + 4, w + 4) -> (n, h + 1, w + 1).

    In one dimension a value is (1 + e) * inner - e * outer with means of the inner and the outer two, e in
    [0, NEGATIVE]: at most max(inner) + NEGATIVE * (max(inner) - min(outer)), where that is positive.
    """
    left, right = padded[:, :, 1:-2], padded[:, :, 2:-1]
    outer = padded[:, :, :-3], padded[:, :, 3:]
    high, low = torch.maximum(left, right), torch.minimum(left, right)
    upper = (high - torch.minimum(*outer)).clamp_min_(0).mul_(NEGATIVE).add_(high)
    lower = low - (torch.maximum(*outer) - low).clamp_min_(0).mul_(NEGATIVE)
    high = torch.maximum(upper[:, 1:-2], upper[:, 2:-1])
    low = torch.minimum(lower[:, :-3], lower[:, 3:])
    return (high - low).clamp_min_(0).mul_(NEGATIVE).add_(high)


def heatmap_cells(keypoints: Tensor, boxes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The cell of each keypoint in a map of `size` x `size` over its box: what the map learns.

    keypoints: (r, k, 3) x, y, visibility. boxes: (r, 4). Gives (r, k) int64, row * size + column, and (r, k) bool:
    labelled (visibility above 0) and inside the box, right and bottom edge included. Others have cell 0.
    """
    corner, far = boxes[:, None, :2], boxes[:, None, 2:]
    points = keypoints[..., :2]
    # A box without extent gives infinities and NaN: outside.
    cell = ((points - corner) * (size / (far - corner))).floor()
    cell = torch.where(points == far, size - 1, cell)
    seen = ((cell >= 0) & (cell < size)).all(2) & (keypoints[..., 2] > 0)
    cell = cell.where(seen[..., None], 0).long()
    return cell[..., 1] * size + cell[..., 0], seen
