import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.models.detection import roi_heads

from retinue.tasks.detection import keypoints
from retinue.tasks.detection.keypoints import heatmap_cells, heatmaps_to_keypoints

corners = st.floats(-50, 400, width=32)
sides = st.floats(0, 300, width=32) | st.sampled_from([0.0, 0.5, 1.0, 8.0, 16.0, 56.0, 56.5, 112.0])
box = st.tuples(corners, corners, sides, sides).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


def heat(kind, boxes, points, side=56, seed=0):
    """Noise as an untrained network gives it, or one peak a map with a little noise, as a trained one does."""
    g = torch.Generator().manual_seed(seed)
    if kind == "noise":
        return F.interpolate(torch.randn(boxes, points, side // 2, side // 2, generator=g), scale_factor=2.0)
    if kind == "smooth":
        noise = torch.randn(boxes, points, side // 2, side // 2, generator=g)
        return F.interpolate(noise, scale_factor=2.0, mode="bilinear")
    centre = torch.rand(boxes, points, 2, 1, 1, generator=g) * side
    at = torch.arange(side) + 0.5
    distance = (at - centre[:, :, 0]) ** 2 + (at[:, None] - centre[:, :, 1]) ** 2
    return 10 * torch.exp(-distance / 12) - 5 + 0.1 * torch.randn(boxes, points, side, side, generator=g)


def many_boxes(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=g) * 300 - 20
    return torch.cat([corner, corner + torch.rand(count, 2, generator=g) ** 2 * 500], 1)


@pytest.mark.parametrize("kind", ["smooth", "peaks"])
@pytest.mark.parametrize("side", [56, 7])
def test_the_same_as_torchvision(kind, side):
    maps, boxes = heat(kind, 40, 5, side), many_boxes(40)
    expected, expected_scores = roi_heads.heatmaps_to_keypoints(maps, boxes)
    points, scores = heatmaps_to_keypoints(maps, boxes)
    torch.testing.assert_close(points, expected, atol=1e-2, rtol=0)
    torch.testing.assert_close(scores, expected_scores, atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(box, min_size=1, max_size=3), st.sampled_from(["noise", "smooth", "peaks"]), st.integers(0, 99)
)
def test_the_largest_pixel_of_the_enlarged_map(boxes, kind, seed):
    """Boxes smaller than a map, of no size, of any ratio. Of pixels that are equal but for rounding any will do."""
    boxes = torch.tensor(boxes)
    maps = heat(kind, len(boxes), 2, 16, seed)
    points, scores = heatmaps_to_keypoints(maps, boxes)
    for place, score, heatmap, (x1, y1, x2, y2) in zip(points, scores, maps, boxes):
        width, height = max(1, x2 - x1), max(1, y2 - y1)
        columns, rows = int(torch.as_tensor(width).ceil()), int(torch.as_tensor(height).ceil())
        enlarged = F.interpolate(heatmap[None], (rows, columns), mode="bicubic")[0]
        torch.testing.assert_close(score, enlarged.amax((1, 2)), atol=1e-4, rtol=1e-5)
        column, row = (place[:, 0] - x1) * columns / width - 0.5, (place[:, 1] - y1) * rows / height - 0.5
        torch.testing.assert_close(column, column.round(), atol=1e-2, rtol=0)
        torch.testing.assert_close(row, row.round(), atol=1e-2, rtol=0)
        there = enlarged[torch.arange(2), row.round().long(), column.round().long()]
        torch.testing.assert_close(there, score, atol=1e-4, rtol=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.sampled_from([1.0, 100.0]), st.integers(1, 9), st.integers(1, 9))
def test_no_interpolated_value_exceeds_its_bound(seed, scale, h, w):
    maps = torch.randn(3, h, w, generator=torch.Generator().manual_seed(seed)) * scale
    bounds = keypoints._upper_bounds(F.pad(maps[:, None], (2, 2, 2, 2), mode="replicate")[:, 0])
    fine = 10  # even, so that cells begin between two pixels
    enlarged = F.interpolate(maps[:, None], (h * fine, w * fine), mode="bicubic")
    padded = F.pad(enlarged, [fine // 2] * 4, value=-torch.inf)
    largest = F.max_pool2d(padded, fine)[:, 0]
    assert (largest <= bounds + 1e-5 * scale).all()


def test_a_peak_is_found_where_it_is():
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 2, 5] = 1
    points, scores = heatmaps_to_keypoints(maps, torch.tensor([[10.0, 20.0, 18.0, 28.0]]))
    assert points.tolist() == [[[15.5, 22.5, 1.0]]]
    assert scores.tolist() == [[1.0]]


def test_equal_pixels_memory_and_values_that_are_not_finite(monkeypatch):
    monkeypatch.setattr(keypoints, "VALUES_AT_ONCE", 1)
    maps = torch.full((1, 3, 8, 8), 3.0)
    maps[0, 1] = torch.nan
    maps[0, 2, 6, 6] = 9
    points, scores = heatmaps_to_keypoints(maps, torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    assert points[0, :, :2].tolist() == [[0.5, 0.5], [0.5, 0.5], [6.5, 6.5]]
    assert scores[0].nan_to_num(nan=-1).tolist() == [3.0, -1.0, 9.0]


@pytest.mark.parametrize("shape", [(0, 17, 56, 56), (3, 0, 56, 56)])
def test_no_boxes_or_no_keypoints(shape):
    points, scores = heatmaps_to_keypoints(torch.zeros(shape), torch.rand(shape[0], 4))
    assert points.shape == (*shape[:2], 3) and scores.shape == shape[:2]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(
            box, st.floats(-0.2, 1.2) | st.sampled_from([0, 1]), st.floats(-0.2, 1.2), st.integers(0, 2)
        )
    )
)
def test_cells_are_torchvisions(rows):
    boxes = torch.tensor([row[0] for row in rows]).reshape(-1, 4)
    share = torch.tensor([row[1:3] for row in rows]).reshape(-1, 2)
    at = boxes[:, :2] + share * (boxes[:, 2:] - boxes[:, :2])
    at = torch.where(share == 1, boxes[:, 2:], at)
    points = torch.cat([at, torch.tensor([[float(row[3])] for row in rows]).reshape(-1, 1)], 1)[:, None]
    expected, valid = roi_heads.keypoints_to_heatmap(points, boxes, 56)
    cells, seen = heatmap_cells(points, boxes, 56)
    real = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    assert torch.equal(cells[real], expected[real]) and torch.equal(seen[real], valid[real].bool())
    assert ((cells >= 0) & (cells < 56**2)).all()


def test_cells_by_hand():
    """Inside, on the right and bottom edge, outside, not labelled."""
    boxes = torch.tensor([[10.0, 20.0, 18.0, 28.0]])
    points = torch.tensor([[[11.2, 22.9, 2.0], [18.0, 28.0, 1.0], [18.1, 25.0, 2.0], [12.0, 22.0, 0.0]]])
    cells, seen = heatmap_cells(points, boxes, 4)
    assert cells.tolist() == [[1 * 4 + 0, 15, 0, 0]]
    assert seen.tolist() == [[True, True, False, False]]


def test_what_is_encoded_is_decoded():
    boxes = torch.tensor([[0.0, 0.0, 56.0, 112.0]])
    points = torch.tensor([[[20.5, 41.0, 2.0]]])
    cells, _ = heatmap_cells(points, boxes, 56)
    maps = F.one_hot(cells, 56**2).float().view(1, 1, 56, 56)
    found, _ = heatmaps_to_keypoints(maps, boxes)
    assert (found[..., :2] - points[..., :2]).abs().max() <= 1
