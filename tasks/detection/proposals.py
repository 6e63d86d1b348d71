"""Region Proposal Network: for every anchor an objectness and a better box (Ren et al. 2015, arXiv:1506.01497, 3.1)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from retinue.datasets.targets import Target
from retinue.tasks.detection.anchors import Anchors, Size
from retinue.tasks.detection.box_coding import clip, decode, encode, large_enough, picture_sizes
from retinue.tasks.detection.losses import proposal_losses
from retinue.tasks.detection.matching import BELOW, assign, matched_rows
from retinue.tasks.detection.nms import batched_nms
from retinue.tasks.detection.regions import refuse_nan
from retinue.tasks.detection.sampling import sample

SMALLEST = 1e-3
"""Proposals with a shorter side, in canvas pixels, are dropped."""


class RPNHead(nn.Module):
    """A 3x3 convolution (or several) and two 1x1: objectness and box codes of the anchors at each position."""

    def __init__(self, channels: int, anchors: int, depth: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(Conv2dNormActivation(channels, channels, 3, norm_layer=None) for _ in range(depth))
        )
        self.cls_logits = nn.Conv2d(channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * anchors, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, c, h, w) -> logits (n, h * w * a), codes (n, h * w * a, 4): position by position, as anchors are."""
        x = self.conv(x)
        logits, codes = self.cls_logits(x), self.bbox_pred(x)
        return logits.permute(0, 2, 3, 1).flatten(1), codes.permute(0, 2, 3, 1).reshape(len(x), -1, 4)


class Scored(NamedTuple):
    """What the head says of every anchor, one entry a map: logits (n, a), codes (n, a, 4), anchors (a, 4)."""

    logits: list[Tensor]
    codes: list[Tensor]
    anchors: list[Tensor]


class RegionProposalNetwork(nn.Module):
    """Scores anchors, proposes regions, and learns both.

    channels: of every map. depth: 3x3 convolutions of the head. top: how many of each map go into non-maximum
    suppression and how many regions a picture come out, in training and at other times. nms_iou, score_threshold:
    of proposals. sampled: anchors a picture that the losses are computed on, half of them objects at most.
    """

    def __init__(
        self,
        channels: int,
        anchors: Anchors,
        depth: int = 1,
        top: tuple[int, int] = (2000, 1000),
        nms_iou: float = 0.7,
        score_threshold: float = 0.0,
        sampled: int = 256,
    ) -> None:
        super().__init__()
        if len(set(anchors.per_position)) != 1:
            raise ValueError(
                f"all maps need the same number of anchors a position, not {anchors.per_position}"
            )
        self.anchors, self.top, self.nms_iou, self.sampled = anchors, top, nms_iou, sampled
        self.score_threshold = score_threshold
        self.head = RPNHead(channels, anchors.per_position[0], depth)

    def forward(self, maps: Sequence[Tensor], canvas: Size) -> Scored:
        """Score the anchors of maps (n, c, h, w) of pictures on a canvas of (height, width)."""
        logits, codes = zip(*(self.head(x) for x in maps))
        grids = [(x.shape[-2], x.shape[-1]) for x in maps]
        return Scored(list(logits), list(codes), self.anchors(canvas, grids, maps[0].device))

    @torch.no_grad()
    def propose(self, scored: Scored, sizes: Sequence[Size]) -> list[Tensor]:
        """For each picture the best regions (r, 4) float32 in canvas pixels, inside the picture's (height, width).

        The best anchors of each map are chosen before they are decoded: of 217,000 only 4,500 are.
        """
        top = self.top[0 if self.training else 1]
        boxes, scores, maps = [], [], []
        for i, (logits, codes, anchors) in enumerate(zip(*scored)):
            best, place = logits.float().topk(min(top, logits.shape[1]), 1)
            if not self.training:  # in training the losses say so
                refuse_nan(best)  # the best are NaN where any is
            chosen = codes.gather(1, place[..., None].expand(-1, -1, 4))
            boxes.append(decode(chosen, anchors[place]))
            scores.append(best.sigmoid())
            maps.append(torch.full_like(place, i))
        return self._suppress(torch.cat(boxes, 1), torch.cat(scores, 1), torch.cat(maps, 1), sizes, top)

    def _suppress(
        self, boxes: Tensor, scores: Tensor, maps: Tensor, sizes: Sequence[Size], top: int
    ) -> list[Tensor]:
        """Boxes (n, k, 4): of each picture the `top` that are left, map by map, sorted by score."""
        boxes = clip(boxes, picture_sizes(sizes, boxes)[:, None])
        keep = large_enough(boxes, SMALLEST) & (scores >= self.score_threshold)
        best = []
        for rows, own, of_map, good in zip(boxes, scores, maps, keep):
            rows, own, of_map = rows[good], own[good], of_map[good]
            best.append(rows[batched_nms(rows, own, of_map, self.nms_iou)[:top]])
        return best

    def losses(self, scored: Scored, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`objectness` and `proposal_box` over a sample of the anchors of each picture.

        An anchor is an object above an IoU of 0.7 with a true box, or where none fits the box better; background
        below 0.3.
        """
        anchors = torch.cat(scored.anchors)
        logits, codes = torch.cat(scored.logits, 1), torch.cat(scored.codes, 1)
        matched = torch.stack(
            [assign(anchors, t["boxes"], t.get("crowd"), 0.7, 0.3, every_truth=True) for t in targets]
        )
        chosen = sample(matched >= 0, matched == BELOW, self.sampled, 0.5)
        matched = matched.where(chosen, BELOW)
        truth = matched_rows(matched, targets, "boxes")
        codes_true = encode(truth, anchors[torch.where(matched >= 0)[1]])
        return proposal_losses(logits[chosen], codes[chosen], matched[chosen] >= 0, codes_true)
