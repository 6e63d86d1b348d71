"""RoI pooling: features of boxes, each from the pyramid level of its size, by RoIAlign (He et al. 2017, section 3).

RoIAlign is linear in the features: a bin is a weighted sum of `4 * sampling_ratio**2` cells of a map. On a CPU we
write it so, as an `embedding_bag` over channels-last cells. It gives what `torchvision.ops.roi_align` gives, six times
faster forwards and an order of magnitude backwards, and in bfloat16 too, which torchvision's CPU kernel does not know.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from retinue.backbones.backbone import Features

BOXES_AT_ONCE = 64
"""So many boxes' results are still in the cache when they are put in their places (measured: 64 to 256 alike)."""


def assign_levels(
    boxes: Tensor, strides: Sequence[int], canonical_size: int = 224, canonical_level: int = 4
) -> Tensor:
    """Which map each box is pooled from, by its size: Lin et al. 2017 (FPN, arXiv:1612.03144), equation 1.

    boxes: (n, 4) x1 y1 x2 y2 in canvas pixels. strides: of the maps, rising. A box of `canonical_size` squared is on
    level `canonical_level`, and level k is the map of stride 2**k, or the next finer one. Gives (n,) int64, indices
    into `strides`; a box that is not finite is on the first.
    """
    x1, y1, x2, y2 = boxes.float().unbind(1)
    side = ((x2 - x1) * (y2 - y1)).sqrt()
    # The small number is torchvision's: a box of exactly 224 x 224 must not fall below its level by rounding.
    level = torch.floor(canonical_level + torch.log2(side / canonical_size) + 1e-6).nan_to_num(nan=-torch.inf)
    known = torch.tensor([math.log2(stride) for stride in strides], device=boxes.device)
    return (torch.bucketize(level, known, right=True) - 1).clamp_min(0)


class RoIAlign(nn.Module):
    """Pools boxes from the pyramid levels that their sizes ask for, as torchvision's `MultiScaleRoIAlign`.

    strides: of the backbone's levels. names: the levels to pool from; of two with the same stride the first is used.
    `sampling_ratio` is the number of samples along each side of a bin; 0 takes as many as the box is large, and is
    slower.
    """

    def __init__(
        self,
        strides: Mapping[str, int],
        names: Sequence[str],
        output_size: int,
        sampling_ratio: int = 2,
        *,
        aligned: bool = False,
        canonical_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        by_stride = {strides[name]: name for name in reversed(names)}
        self.strides = sorted(by_stride)
        self.names = [by_stride[stride] for stride in self.strides]
        self.output_size, self.sampling_ratio, self.aligned = output_size, sampling_ratio, aligned
        self.canonical_size, self.canonical_level = canonical_size, canonical_level

    def forward(self, features: Features, boxes: Sequence[Tensor]) -> Tensor:
        """(sum of r_i, channels, size, size) from boxes [(r_i, 4)], one tensor a picture, in canvas pixels.

        The result has the features' type; on a CPU it is channels-last in memory.
        """
        levels = assign_levels(
            torch.cat(list(boxes)), self.strides, self.canonical_size, self.canonical_level
        )
        maps = [features[name] for name in self.names]
        scales = [1 / stride for stride in self.strides]
        return roi_align(maps, boxes, levels, scales, self.output_size, self.sampling_ratio, self.aligned)


def roi_align(
    features: Sequence[Tensor],
    boxes: Sequence[Tensor],
    levels: Tensor,
    scales: Sequence[float],
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Tensor:
    """`torchvision.ops.roi_align` over several maps at once; the arithmetic of boxes is in float32.

    features: maps (n, c, h_k, w_k), best channels-last in memory. boxes: n tensors (r_i, 4), x1 y1 x2 y2.
    levels: (sum of r_i,) int64, which of the maps each box is pooled from. scales: of each map, map cells a box unit.
    Gives (sum of r_i, c, size, size) in the features' type. Gradients reach the features, never the boxes.
    """
    counts = torch.tensor([len(b) for b in boxes], device=levels.device)
    pictures = torch.repeat_interleave(torch.arange(len(boxes), device=levels.device), counts)
    every_box = torch.cat(list(boxes)).detach().float()
    rows = [(levels == k).nonzero()[:, 0] for k in range(len(features))]
    if features[0].device.type != "cpu" or sampling_ratio <= 0:
        return _torchvision(features, every_box, pictures, rows, scales, output_size, sampling_ratio, aligned)
    taps = [
        find_taps(every_box[r] * scale, pictures[r], map.shape[-2:], output_size, sampling_ratio, aligned)
        for map, r, scale in zip(features, rows, scales)
    ]
    pooled = _Gather.apply(rows, taps, output_size**2, *features)
    return pooled.unflatten(1, (output_size, output_size)).permute(0, 3, 1, 2)


class Taps(NamedTuple):
    """What each bin of r boxes reads of one map: `4 * sampling_ratio**2` cells."""

    cells: Tensor
    """(r * size * size, taps) int32, row of the map as (n * h * w, channels)."""
    weights: Tensor
    """(r * size * size, taps) float32."""


def find_taps(
    boxes: Tensor, pictures: Tensor, map_size: Sequence[int], size: int, ratio: int, aligned: bool
) -> Taps:
    """The cells and weights of `size` x `size` bins of boxes (r, 4) float32, in cells of the map."""
    x1, y1, x2, y2 = (boxes - 0.5 if aligned else boxes).unbind(1)
    width, height = x2 - x1, y2 - y1
    if not aligned:
        width, height = width.clamp_min(1), height.clamp_min(1)
    y, weight_y = _axis_taps(y1, height, size, ratio, map_size[0])
    x, weight_x = _axis_taps(x1, width, size, ratio, map_size[1])
    y = (pictures.int() * map_size[0])[:, None, None] + y
    cells = (y * map_size[1])[:, :, None, :, None] + x[:, None, :, None, :]
    weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
    return Taps(cells.reshape(-1, 4 * ratio**2), weights.reshape(-1, 4 * ratio**2))


def _axis_taps(start: Tensor, length: Tensor, size: int, ratio: int, cells: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the cells (r, size, 2 * ratio) int32 and weights that the samples of each bin lie between.

    A sample more than one cell outside the map counts as 0, a nearer one is moved to the edge.
    """
    bin_length = (length / size)[:, None, None]
    bins = torch.arange(size, dtype=torch.float32)[:, None]
    samples = torch.arange(ratio, dtype=torch.float32) + 0.5
    position = start[:, None, None] + bins * bin_length + samples * bin_length / ratio
    inside = (position >= -1) & (position <= cells)
    position = torch.where(inside, position, 0).clamp_(0, cells - 1)
    low = position.floor()
    toward_high = position - low
    weights = torch.stack([1 - toward_high, toward_high], dim=-1) * (inside / ratio)[..., None]
    pair = torch.stack([low, (low + 1).clamp_max(cells - 1)], dim=-1)
    return pair.int().flatten(2), weights.flatten(2)


class _Gather(torch.autograd.Function):
    """Weighted sums of cells: maps (n, c, h, w) -> (boxes, bins, c); the way back is the transposed gather."""

    @staticmethod
    def forward(ctx: Any, rows: list[Tensor], taps: list[Taps], bins: int, *features: Tensor) -> Tensor:
        channels, dtype = features[0].shape[1], features[0].dtype
        pooled = features[0].new_empty(sum(map(len, rows)), bins, channels)
        for map_, row, (cells, weights) in zip(features, rows, taps):
            table = map_.permute(0, 2, 3, 1).contiguous().view(-1, channels).to(dtype)
            step = BOXES_AT_ONCE * bins
            parts = zip(row.split(BOXES_AT_ONCE), cells.split(step), weights.to(dtype).split(step))
            for places, c, w in parts if len(row) else ():
                values = embedding_bag(c, table, mode="sum", per_sample_weights=w)
                pooled.index_copy_(0, places, values.view(len(places), bins, channels))
        ctx.save_for_backward(*rows, *(t for level in taps for t in level))
        ctx.bins, ctx.maps = bins, [(map_.shape, map_.dtype) for map_ in features]
        return pooled

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        levels = len(ctx.maps)
        rows, taps = ctx.saved_tensors[:levels], ctx.saved_tensors[levels:]
        grad = grad.contiguous().flatten(0, 1)
        grads = [
            _scatter(grad, row, cells, weights, ctx.bins, shape).to(dtype) if needed else None
            for (shape, dtype), row, cells, weights, needed in zip(
                ctx.maps, rows, taps[::2], taps[1::2], ctx.needs_input_grad[3:]
            )
        ]
        return None, None, None, *grads


def _scatter(
    grad: Tensor, rows: Tensor, cells: Tensor, weights: Tensor, bins: int, shape: torch.Size
) -> Tensor:
    """The gradient of a map of this shape: every cell gathers from the bins that had read it.

    Sorting the taps by cell and gathering once more beats `embedding_bag`'s own backward by 1.4 to 4 (and keeps
    float32 sums in bfloat16), `torch.sparse` by 5.
    """
    n, channels, height, width = shape
    _, order = cells.flatten().sort()
    count = torch.bincount(cells.flatten(), minlength=n * height * width)
    bin_of = (rows[:, None] * bins + torch.arange(bins)).flatten()
    table = embedding_bag(
        bin_of[order // cells.shape[1]],
        grad,
        count.cumsum(0) - count,
        mode="sum",
        per_sample_weights=weights.flatten()[order].to(grad.dtype),
    )
    return table.view(n, height, width, channels).permute(0, 3, 1, 2)


def _torchvision(
    features: Sequence[Tensor],
    boxes: Tensor,
    pictures: Tensor,
    rows: list[Tensor],
    scales: Sequence[float],
    size: int,
    ratio: int,
    aligned: bool,
) -> Tensor:
    """The same by torchvision's kernels: the fast ones on a GPU; and where samples adapt to the box."""
    regions = torch.cat([pictures[:, None].float(), boxes], dim=1)
    dtype = features[0].dtype
    pooled = torch.zeros(len(boxes), features[0].shape[1], size, size, dtype=dtype, device=boxes.device)
    for map_, row, scale in zip(features, rows, scales):
        values = torchvision.ops.roi_align(map_.float(), regions[row], size, scale, ratio, aligned)
        pooled = pooled.index_copy(0, row, values.to(dtype))
    return pooled


def permuted_linear_weight(weight: Tensor, channels: int) -> Tensor:
    """A linear layer's weight (out, channels * s * s) for inputs flattened as (s, s, channels) instead.

    `pooled.permute(0, 2, 3, 1).flatten(1)` of a channels-last result is no copy: a head that keeps its first layer so
    spares one. Papers and published weights flatten as (channels, s, s).
    """
    side = math.isqrt(weight.shape[1] // channels)
    return weight.unflatten(1, (channels, side, side)).permute(0, 2, 3, 1).flatten(1)
