import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops
from torchvision.ops.poolers import LevelMapper

from retinue.tasks.detection.roi_pooling import RoIAlign, assign_levels, permuted_linear_weight, roi_align

STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
CANVAS = (96, 160)

edges = st.floats(-60, 220, width=32) | st.integers(-3, 13).map(lambda v: 16.0 * v)
boxes_ = st.lists(st.tuples(edges, edges, edges, edges), max_size=6).map(
    lambda rows: torch.tensor(rows).reshape(-1, 2, 2).sort(1)[0].flatten(1)
)


def pyramid(pictures=2, channels=3, seed=0, **kind):
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: (CANVAS[0] // s, CANVAS[1] // s) for name, s in STRIDES.items()}
    maps = {n: torch.randn(pictures, channels, *size, generator=generator) for n, size in sizes.items()}
    return {name: value.to(**kind) for name, value in maps.items()}


def many_boxes(pictures=2, count=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(pictures, count, 2, 2, generator=generator) * 260 - 40
    return list(points.sort(2)[0].flatten(2))


@settings(deadline=None, max_examples=60)
@given(st.lists(boxes_, min_size=2, max_size=2), st.sampled_from([1, 2, 7]), st.integers(0, 3))
def test_the_same_as_torchvision(boxes, size, ratio):
    """Boxes outside the picture, tiny ones and ones without area included; ratio 0 is the adaptive one."""
    maps = pyramid()
    theirs = ops.MultiScaleRoIAlign(list(STRIDES), size, ratio)(maps, boxes, [CANVAS] * 2)
    ours = RoIAlign(STRIDES, list(STRIDES), size, ratio)(maps, boxes)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(boxes_, st.booleans(), st.integers(1, 3))
def test_one_map_aligned_or_not(boxes, aligned, ratio):
    map_ = pyramid(1)["p3"]
    theirs = ops.roi_align(map_, [boxes], 5, 1 / 8, ratio, aligned)
    levels = torch.zeros(len(boxes), dtype=torch.int64)
    ours = roi_align([map_], [boxes], levels, [1 / 8], 5, ratio, aligned)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_bin_by_hand():
    """One bin over two by two cells of a ramp has the ramp's value at its centre, half a cell from the corners."""
    ramp = torch.arange(6.0).view(1, 1, 1, 6) + 10 * torch.arange(5.0).view(1, 1, 5, 1)
    pool = RoIAlign({"c2": 4}, ["c2"], 1)
    centre = pool({"c2": ramp}, [torch.tensor([[4.0, 4.0, 12.0, 12.0]])])
    assert centre.item() == pytest.approx(2 + 10 * 2)


@settings(deadline=None, max_examples=100)
@given(boxes_, st.integers(0, 3))
def test_levels_are_torchvisions(boxes, first):
    strides = list(STRIDES.values())[first:]
    theirs = LevelMapper(2 + first, 5)([boxes])
    assert torch.equal(assign_levels(boxes, strides), theirs)


@pytest.mark.parametrize(
    ("side", "level"), [(1, 0), (111.9, 0), (112, 1), (223.9, 1), (224, 2), (448, 3), (9000, 3)]
)
def test_levels_by_hand(side, level):
    assert assign_levels(torch.tensor([[0.0, 0.0, side, side]]), [4, 8, 16, 32]).tolist() == [level]


def test_a_level_that_is_not_there_gives_way_to_the_next_finer_one():
    boxes = torch.tensor([[0.0, 0.0, 112.0, 112.0], [0.0, 0.0, 224.0, 224.0]])
    assert assign_levels(boxes, [4, 16]).tolist() == [0, 1]


def test_of_equal_strides_the_first_is_used():
    """MobileNetV3's pyramid has two maps of stride 32; torchvision pools from the first alone."""
    maps = {"0": torch.randn(1, 2, 3, 5), "1": torch.randn(1, 2, 3, 5)}
    boxes = many_boxes(1)
    theirs = ops.MultiScaleRoIAlign(["0", "1"], 7, 2)(maps, boxes, [CANVAS])
    ours = RoIAlign({"0": 32, "1": 32}, ["0", "1"], 7)(maps, boxes)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("grad_memory", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_torchvisions(memory, grad_memory):
    """Of more boxes than are put in their places at once, and of a level without any."""
    maps = {n: m.to(memory_format=memory).requires_grad_() for n, m in pyramid().items()}
    boxes = many_boxes(count=100)
    boxes = [b[(b[:, 2:] - b[:, :2]).prod(1) < 220**2] for b in boxes]
    theirs = ops.MultiScaleRoIAlign(list(STRIDES), 7, 2)(maps, boxes, [CANVAS] * 2)
    ours = RoIAlign(STRIDES, list(STRIDES), 7)(maps, boxes)
    grad = torch.randn_like(theirs).to(memory_format=grad_memory)
    expected = torch.autograd.grad(theirs, list(maps.values()), grad)
    found = torch.autograd.grad(ours, list(maps.values()), grad)
    assert not expected[-1].any()
    for e, f in zip(expected, found):
        torch.testing.assert_close(f, e, atol=1e-4, rtol=1e-4)


def test_gradients_by_differences():
    maps = [m.double().requires_grad_() for m in pyramid(1, 2).values()][2:]
    boxes = [torch.tensor([[-9.0, 3.0, 77.0, 60.5], [130.0, 80.0, 131.0, 81.0], [20.0, 20.0, 150.0, 90.0]])]

    def pool(*maps):
        return roi_align(maps, boxes, torch.tensor([0, 0, 1]), [1 / 16, 1 / 32], 2)

    assert torch.autograd.gradcheck(pool, maps)


@pytest.mark.parametrize("ratio", [0, 2])
def test_bfloat16_differs_by_its_rounding(ratio):
    maps = pyramid(channels=8)
    boxes = many_boxes()
    pool = RoIAlign(STRIDES, list(STRIDES), 7, ratio)
    small = {n: m.bfloat16().requires_grad_() for n, m in maps.items()}
    exact = {n: m.detach().float().requires_grad_() for n, m in small.items()}
    ours, expected = pool(small, boxes), pool(exact, boxes)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), expected, atol=2e-2, rtol=2e-2)
    grad = torch.randn_like(ours)
    found = torch.autograd.grad(ours, list(small.values()), grad)
    expected_grads = torch.autograd.grad(expected, list(exact.values()), grad.float())
    for f, e in zip(found, expected_grads):
        assert f.dtype == torch.bfloat16
        torch.testing.assert_close(f.float(), e, atol=2e-2 * e.abs().max().item(), rtol=2e-2)


def test_under_autocast_the_result_is_the_same():
    maps, boxes, pool = pyramid(), many_boxes(), RoIAlign(STRIDES, list(STRIDES), 7)
    with torch.autocast("cpu", torch.bfloat16):
        inside = pool(maps, boxes)
    assert torch.equal(inside, pool(maps, boxes))


def test_no_boxes():
    maps = {n: m.requires_grad_() for n, m in pyramid().items()}
    pooled = RoIAlign(STRIDES, list(STRIDES), 7)(maps, [torch.zeros(0, 4)] * 2)
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert all(not m.grad.any() for m in maps.values())


def test_boxes_that_are_not_finite_pool_zeros():
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [[nan, 0, 9, 9], [0, 0, inf, inf], [-inf, 0, 9, 9], [nan] * 4, [1e30, 1e30, 2e30, 2e30]]
    )
    maps = {n: torch.ones_like(m) for n, m in pyramid(1).items()}
    pooled = RoIAlign(STRIDES, list(STRIDES), 3)(maps, [torch.cat([boxes, torch.tensor([[8.0, 8, 60, 60]])])])
    assert not pooled[:5].any()
    torch.testing.assert_close(pooled[5], torch.ones(3, 3, 3))


def test_channels_last_and_a_linear_layer_without_a_copy():
    maps = {n: m.to(memory_format=torch.channels_last) for n, m in pyramid().items()}
    pooled = RoIAlign(STRIDES, list(STRIDES), 7)(maps, many_boxes())
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    flat = pooled.permute(0, 2, 3, 1).flatten(1)
    assert flat.data_ptr() == pooled.data_ptr()
    layer = torch.nn.Linear(3 * 7 * 7, 5)
    expected = layer(pooled.flatten(1))
    ours = torch.nn.functional.linear(flat, permuted_linear_weight(layer.weight, 3), layer.bias)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
