import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from retinue.tasks.detection.anchors import Anchors

SIZES, RATIOS = ((32,), (64,), (128, 181.02)), (0.5, 1.0, 2.0)


def test_by_hand() -> None:
    (anchors,) = Anchors([(8,)], [1.0])((8, 12), [(2, 3)], torch.device("cpu"))
    assert anchors.tolist() == [
        [-4, -4, 4, 4], [0, -4, 8, 4], [4, -4, 12, 4], [-4, 0, 4, 8], [0, 0, 8, 8], [4, 0, 12, 8],
    ]  # fmt: skip


def test_as_torchvision_at_odd_sizes() -> None:
    grids = [(25, 34), (13, 17), (7, 9)]
    images = ImageList(torch.empty(1, 3, 800, 1088), [(800, 1066)])
    (expected,) = AnchorGenerator(SIZES, (RATIOS,) * 3)(images, [torch.empty(1, 8, *g) for g in grids])
    anchors = Anchors(SIZES, RATIOS)
    found = anchors((800, 1088), grids, torch.device("cpu"))
    assert anchors.per_position == [3, 3, 6]
    assert torch.equal(torch.cat(found), expected)
