"""From maps on a canvas to answers in the file's frame, and the decoder's parts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate, max_pool2d

from retinue.backbones import build
from retinue.backbones.backbone import Level
from retinue.tasks import dense
from retinue.tasks.dense import Decoder, PyramidPooling, enlarged, fitted, in_file_frame, plain_levels, resize


def scaling(old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    """The affine map of resizing the whole picture from (height, width) `old` to `new`."""
    return torch.tensor([[new[1] / old[1], 0, 0], [0, new[0] / old[0], 0]], dtype=torch.float64)


def file_frame(maps: torch.Tensor, to_file: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.cat(list(in_file_frame(maps, to_file, size)), 2)


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(2, 40)] * 2), st.tuples(*[st.integers(2, 60)] * 2))
def test_a_scaled_picture_is_interpolated_bilinearly(old: tuple[int, int], new: tuple[int, int]) -> None:
    maps = torch.randn(1, 3, *old)
    expected = interpolate(maps, size=new, mode="bilinear", align_corners=False)
    torch.testing.assert_close(file_frame(maps, scaling(old, new), new), expected, atol=2e-5, rtol=0)


def test_the_file_s_own_frame_is_left_to_the_bit() -> None:
    maps = torch.randn(1, 2, 5, 7)
    assert torch.equal(file_frame(maps, torch.eye(2, 3, dtype=torch.float64), (5, 7)), maps)


def test_a_shifted_and_a_mirrored_part_land_where_they_came_from() -> None:
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    shift = torch.tensor([[1.0, 0, 2], [0, 1, 1]], dtype=torch.float64)
    placed = file_frame(maps, shift, (5, 7))
    assert torch.equal(placed[..., 1:4, 2:6], maps)
    mirror = torch.tensor([[-1.0, 0, 4], [0, 1, 0]], dtype=torch.float64)
    torch.testing.assert_close(file_frame(maps, mirror, (3, 4)), maps.flip(-1))


def test_stripes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(1, 3, 20, 30)
    whole = file_frame(maps, scaling((20, 30), (47, 61)), (47, 61))
    monkeypatch.setattr(dense, "STRIPE", 3 * 61 * 5)
    stripes = list(in_file_frame(maps, scaling((20, 30), (47, 61)), (47, 61)))
    assert [part.shape[2] for part in stripes] == [5] * 9 + [2]
    torch.testing.assert_close(torch.cat(stripes, 2), whole, atol=1e-6, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 30)] * 2), st.tuples(*[st.integers(1, 50)] * 2), st.floats(-9, 9))
def test_what_is_only_stretched_is_what_any_affine_map_gives(
    old: tuple[int, int], new: tuple[int, int], shift: float
) -> None:
    maps, to_file = torch.randn(1, 3, *old), scaling(old, new)
    to_file[1, 2] = shift
    back = torch.linalg.inv(torch.cat([to_file, torch.tensor([[0.0, 0, 1]], dtype=torch.float64)]))[:2]
    rows = torch.arange(new[0], dtype=torch.float64) + 0.5
    found = file_frame(maps, to_file, new)
    torch.testing.assert_close(found, dense._warp(maps, back, rows, new[1]), atol=5e-5, rtol=0)
    assert found.permute(0, 2, 3, 1).is_contiguous()  # in which a largest channel is soon found


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_resizing_to_the_same_size_is_nothing(mode: dense.Upsampling) -> None:
    x = torch.randn(1, 2, 6, 5)
    assert resize(x, (6, 5), mode) is x
    assert resize(x, (13, 9), mode).shape == (1, 2, 13, 9)


def test_maps_are_fitted_by_whole_cells() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert fitted(x, (2, 3)) is not None and torch.equal(fitted(x, (2, 3)), x)
    assert torch.equal(fitted(x, (1, 2)), x[..., :1, :2])
    assert fitted(x, (2, 5))[0, 0].tolist() == [[0, 0, 1, 2, 2], [3, 3, 4, 5, 5]]
    assert fitted(x, (3, 2))[0, 0].tolist() == [[0, 1], [3, 4], [3, 4]]


@pytest.mark.parametrize("factor", [2, 4, 16])
def test_enlarging_undoes_pooling_at_any_size(factor: int) -> None:
    for height, width in ((32, 48), (33, 47), (5, 1)):
        cells = -(-height // factor), -(-width // factor)
        blocks = torch.rand(1, 2, *cells)
        full = blocks.repeat_interleave(factor, 2).repeat_interleave(factor, 3)[..., :height, :width]
        pooled = max_pool2d(full, factor, ceil_mode=True)
        assert torch.equal(pooled, blocks)
        assert torch.equal(enlarged(pooled, factor, (height, width), "nearest"), full)


LEVELS = {"c2": Level(8, 4), "c3": Level(12, 8), "c4": Level(16, 16)}


def pyramid(height: int, width: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.randn(2, level.channels, -(-height // level.stride), -(-width // level.stride))
        for name, level in LEVELS.items()
    }


@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(64, 64), (53, 39)])
def test_a_decoder_ends_at_the_finest_level(upsampling: dense.Upsampling, size: tuple[int, int]) -> None:
    decoder = Decoder(LEVELS, (10, 6), upsampling)
    features = pyramid(*size)
    assert decoder(features).shape == (2, 6, *features["c2"].shape[-2:])
    assert (decoder.channels, decoder.stride) == (6, 4)


def test_a_decoder_needs_a_width_for_every_step() -> None:
    with pytest.raises(ValueError, match="3 levels have 2 steps"):
        Decoder(LEVELS, (8,))


def test_a_decoder_hears_every_level() -> None:
    decoder, features = Decoder(LEVELS, (10, 6)), pyramid(32, 32)
    for value in features.values():
        value.requires_grad_()
    decoder(features).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in features.values())


def test_no_checkerboard_a_constant_pyramid_gives_a_constant_inside() -> None:
    features = {name: torch.ones_like(value) for name, value in pyramid(256, 256).items()}
    inside = Decoder(LEVELS, (10, 6)).eval()(features)[..., 28:-28, 28:-28]
    assert (inside - inside[..., :1, :1]).abs().max() < 1e-5


def test_pyramid_pooling_keeps_the_map_and_adds_its_means() -> None:
    pooling = PyramidPooling(4, 3, (1, 2)).eval()
    x = torch.randn(2, 4, 6, 8)
    y = pooling(x)
    assert y.shape == (2, pooling.channels, 6, 8) and pooling.channels == 10
    assert torch.equal(y[:, :4], x)
    mean = pooling.narrow[0](x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(y[:, 4:7], mean.expand(2, 3, 6, 8), atol=1e-5, rtol=1e-5)


def test_pyramid_pooling_learns_from_a_single_picture() -> None:
    PyramidPooling(4, 3, (1, 2)).train()(torch.randn(1, 4, 6, 8)).sum().backward()


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("mobilenet_v2", ["c1", "c2", "c3", "c4", "c5"]),
        ("resnet18", ["c1", "c2", "c3", "c4", "c5"]),
        ("vgg11", ["c1", "c2", "c3", "c4", "c5"]),
        ("pixels", []),
    ],
)
def test_plain_levels_are_one_a_stride(name: str, levels: list[str]) -> None:
    with torch.device("meta"):
        assert plain_levels(build(name)) == levels


def test_of_dilated_stages_the_last_is_read() -> None:
    backbone = build("resnet50", replace_stride_with_dilation=(False, True, True))
    assert plain_levels(backbone) == ["c1", "c2", "c5"]
