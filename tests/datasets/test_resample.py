"""Pixels that are moved: of every type, sharp where they shrink, copied whole where that is near enough."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moves import H, W, generator

from retinue.datasets.geometry import Warp, move_points
from retinue.datasets.resample import _whole_pixels, inverse, resize_like_pil, warp_image
from retinue.datasets.spatial import (
    HorizontalFlip,
    Letterbox,
    RandomAffine,
    RandomResizedCrop,
    Resize,
    ResizeTo,
)
from retinue.datasets.targets import Sample


@settings(max_examples=80, deadline=None)
@given(
    st.floats(0.4, 2.5),
    st.floats(0.4, 2.5),
    st.floats(-80, 80),
    st.floats(-80, 80),
    st.sampled_from([1, -1]),
)
def test_a_snapped_map_is_nearly_the_same_and_resizes_whole_pixels(a, d, x, y, sign):
    picture, size = (200, 240), (220, 210)
    warp = Warp(np.array([[sign * a, 0, x if sign > 0 else 240 * a + x], [0, d, y]]), size)
    snapped = warp.snap(picture)
    frame = np.array([[0.0, 0], [210, 0], [0, 220], [210, 220]])
    seen = np.clip(move_points(np.array([[0.0, 0], [240, 200]]), warp.matrix), 0, size[::-1])
    inside = np.clip(frame, seen.min(0), seen.max(0))
    moved = move_points(move_points(inside, inverse(warp.matrix)), snapped.matrix)
    assert np.abs(moved - inside).max() <= 0.51 * max(1, a, d) + 1e-6
    ratio = snapped.matrix[[0, 1], [0, 1]] / warp.matrix[[0, 1], [0, 1]]
    np.testing.assert_allclose(snapped.view, np.diag(ratio))
    assert np.abs(ratio - 1).max() < 0.025
    if np.abs(np.ptp(inside, 0)).min() > 66 and np.abs(np.ptp(inside, 0) / [a, d]).min() > 66:
        assert _whole_pixels(snapped.matrix, picture, size) is not None


def test_turned_maps_are_not_snapped():
    warp = RandomAffine(degrees=(10.0, 10.0)).warp((200, 200), generator())
    assert warp.snap((200, 200)) is warp


# Pictures of every kind


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pictures_of_every_type_and_number_of_channels(channels, dtype):
    light = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    image = (generator().random((H, W, channels)) * light).astype(dtype)
    steps = [
        HorizontalFlip(p=1),
        RandomResizedCrop(32),
        Resize(20),
        RandomAffine(10, p=1),
        Letterbox(40, pad=1.0),
    ]
    for transform in steps:
        out = transform(Sample("x", image), generator()).image
        assert out.dtype == dtype and out.ndim == 3 and out.shape[2] == channels and out.flags.c_contiguous
        assert out.max() > 0.5 * light
        assert np.allclose(out.mean() / light, 0.5, atol=0.16)


def test_a_16_bit_ramp_keeps_its_levels():
    ramp = np.tile(np.arange(2000, dtype=np.uint16)[None, :, None], (4, 1, 1)) * 30
    out = ResizeTo(4, 4000)(Sample("x", ramp), generator()).image
    assert len(np.unique(out)) > 2500 and out.max() == 1999 * 30


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="int32"):
        warp_image(np.zeros((4, 4, 3), np.int32), np.eye(2, 3), (4, 4))


def test_shrinking_averages_and_does_not_alias():
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    for matrix in (np.array([[0.2, 0, 0], [0, 0.2, 0]]), np.array([[0.2, 0.01, 0], [-0.01, 0.2, 0.5]])):
        averaged, sampled = (
            warp_image(stripes, matrix, (18, 18), antialias=a)[2:-2, 2:-2] for a in (True, False)
        )
        assert np.abs(averaged - 127.5).max() < 32
        assert np.ptp(sampled) > 100


@pytest.mark.parametrize("factor", [1.3, 1.9, 2.6, 4.0])
@pytest.mark.parametrize("tilt", [0.0, 1e-6])
def test_training_pictures_are_as_sharp_as_evaluation_s(factor, tilt):
    """Gradient energy against PIL's antialiased bilinear, on noise with a natural (1 / f) spectrum."""
    side = 256
    rng = generator(1)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / np.maximum(f, 1 / side)).real
    image = np.repeat(((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)[..., None], 3, 2)
    new = round(side / factor)
    matrix = np.array([[new / side, tilt, 0], [0, new / side, 0]])
    ours = warp_image(image, matrix, (new, new))
    pil = resize_like_pil(image, (new, new))
    energy = [np.square(np.diff(x[2:-2, 2:-2, 0].astype(float), axis=1)).mean() for x in (ours, pil)]
    assert 0.85 < energy[0] / energy[1] < 1.15
    assert np.abs(ours.astype(int) - pil)[2:-2, 2:-2].mean() < 1.8


def test_inverse_is_the_inverse():
    matrix = np.array([[1.2, 0.3, 4], [-0.2, 0.8, 1]])
    point = np.array([3.0, 7.0])
    np.testing.assert_allclose(move_points(move_points(point, matrix), inverse(matrix)), point, atol=1e-12)
