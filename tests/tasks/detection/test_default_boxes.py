"""Default boxes are torchvision's, and the authors' by hand."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from retinue.tasks.detection.default_boxes import DefaultBoxes
from retinue.tasks.detection.published import SSD300
from retinue.tasks.detection.ssd import SSD
from retinue.tasks.detection.ssdlite import SSDLite

CPU = torch.device("cpu")


@pytest.mark.parametrize("canvas", [(300, 300), (320, 320), (200, 352)])
@pytest.mark.parametrize("steps", [None, SSD300["box_steps"]])
def test_as_torchvision(canvas: tuple[int, int], steps: list[float] | None) -> None:
    ratios = [[2.0], [2.0, 3.0], [2.0, 3.0], [2.0, 3.0], [2.0], [2.0]]
    grids = [(38, 38), (19, 19), (10, 11), (5, 5), (3, 2), (1, 1)]
    maps = [torch.zeros(1, 1, *grid) for grid in grids]
    their = DefaultBoxGenerator(ratios, scales=SSD300["box_scales"], steps=steps)  # type: ignore[arg-type]
    (expected,) = their(ImageList(torch.zeros(1, 3, *canvas), [canvas]), maps)
    ours = DefaultBoxes(SSD300["box_scales"], ratios, steps)
    assert ours.per_position == their.num_anchors_per_location() == [4, 6, 6, 6, 4, 4]
    torch.testing.assert_close(ours(canvas, grids, CPU), expected, rtol=0, atol=1e-3)


def test_one_position_by_hand() -> None:
    """A quarter and its root with the whole, in the middle of a canvas of 100 x 200, twice as wide and as high."""
    boxes = DefaultBoxes([0.25, 1.0], [[4.0]])((100, 200), [(1, 1)], CPU)
    assert boxes.tolist() == [
        [75, 37.5, 125, 62.5],
        [50, 25, 150, 75],
        [50, 43.75, 150, 56.25],
        [87.5, 25, 112.5, 75],
    ]
    second = DefaultBoxes([0.25, 1.0], [[]], [30.0])((100, 200), [(2, 2)], CPU)[3 * 2]
    assert second.tolist() == [45 - 25, 45 - 12.5, 45 + 25, 45 + 12.5]


def test_scales_are_the_papers() -> None:
    assert SSD.default_scales(6) == pytest.approx([0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05])
    assert SSDLite.default_scales(6) == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0])
    assert len(SSDLite.default_scales(1)) == 2 and len(SSD.default_scales(7)) == 8
