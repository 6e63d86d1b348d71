"""The way from a pyramid of maps back to the picture's size."""

import pytest
import torch
from torch.nn.functional import max_pool2d

from retinue.backbones import build
from retinue.backbones.backbone import Level
from retinue.tasks import dense
from retinue.tasks.dense import Decoder, PyramidPooling, enlarged, fitted, plain_levels, resize


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
