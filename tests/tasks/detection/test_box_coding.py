import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image

from retinue.tasks.detection.box_coding import REGION_WEIGHTS, UNIT, clip, decode, encode, large_enough

COORDINATE = st.floats(-50, 1500, width=32)
SIDE = st.floats(0.5, 900, width=32)
BOXES = st.lists(st.tuples(COORDINATE, COORDINATE, SIDE, SIDE), min_size=1, max_size=9).map(
    lambda rows: torch.tensor([(x, y, x + w, y + h) for x, y, w, h in rows])
)


def test_by_hand() -> None:
    anchor, box = torch.tensor([0.0, 0, 10, 20]), torch.tensor([5.0, 0, 25, 20])
    code = encode(box, anchor)
    torch.testing.assert_close(code, torch.tensor([1.0, 0, math.log(2), 0]))
    torch.testing.assert_close(decode(code, anchor), box)
    torch.testing.assert_close(encode(box, anchor, REGION_WEIGHTS), code * torch.tensor([10.0, 10, 5, 5]))


@given(BOXES, BOXES)
def test_decode_undoes_encode(boxes: torch.Tensor, anchors: torch.Tensor) -> None:
    n = min(len(boxes), len(anchors))
    sides = torch.cat([boxes[:n, 2:] - boxes[:n, :2], anchors[:n, 2:] - anchors[:n, :2]], 1)
    back = decode(encode(boxes[:n], anchors[:n]), anchors[:n])
    grows_too_much = (sides[:, :2] / sides[:, 2:] > 62).any(1)
    assert ((back - boxes[:n]).abs().amax(1) < 0.05)[~grows_too_much].all()


@given(BOXES, st.integers(0, 2**31))
def test_as_torchvision(anchors: torch.Tensor, seed: int) -> None:
    codes = torch.randn(len(anchors), 8, generator=torch.Generator().manual_seed(seed)) * 3
    expected = BoxCoder(REGION_WEIGHTS).decode(codes, [anchors])
    torch.testing.assert_close(
        decode(codes.view(-1, 2, 4), anchors[:, None], REGION_WEIGHTS), expected, rtol=1e-5, atol=1e-3
    )
    two = decode(torch.zeros(len(anchors), 4), anchors)
    torch.testing.assert_close(encode(anchors, two, UNIT), torch.zeros(len(anchors), 4), rtol=0, atol=2e-3)


def test_a_code_of_bfloat16_is_decoded_in_float32() -> None:
    boxes = decode(torch.zeros(1, 4, dtype=torch.bfloat16), torch.tensor([[1001.0, 3, 1013, 9]]))
    assert boxes.dtype == torch.float32 and boxes.tolist() == [[1001, 3, 1013, 9]]


def test_clipping_and_size() -> None:
    boxes = torch.tensor([[-5.0, -5, 20, 20], [3, 4, 5, 40], [30, 30, 40, 40]])
    expected = clip_boxes_to_image(boxes, (10, 15))
    cut = clip(boxes, torch.tensor([[10.0, 15.0]]))
    assert torch.equal(cut, expected)
    assert large_enough(cut, 1e-3).tolist() == [True, True, False]
