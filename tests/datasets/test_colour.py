"""Looks against a float reference, and what damages only the picture."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.datasets.colour import (
    LUMA,
    ColorJitter,
    Cutout,
    GaussianBlur,
    GaussianNoise,
    HSVJitter,
    Look,
    RandomErasing,
    RandomGamma,
    RandomGrayscale,
    colour_look,
    expose,
    mean_colour,
)
from retinue.datasets.targets import Sample
from retinue.datasets.transforms import Compose


def generator(seed=0):
    return np.random.default_rng(seed)


def picture(dtype=np.uint8, channels=3, h=40, w=50):
    light = 1 if dtype == np.float32 else np.iinfo(dtype).max
    return (generator(1).random((h, w, channels)) * light).astype(dtype)


def reference(x, brightness, contrast, saturation, hue):
    """One step after the other in float64, as the four are defined; x in [0, 1]."""
    x = x * brightness
    x = (x - (x @ LUMA).mean()) * contrast + (x @ LUMA).mean()
    grey = (x @ LUMA)[..., None]
    x = grey + (x - grey) * saturation
    i = x @ [0.5959, -0.2746, -0.3213]
    q = x @ [0.2115, -0.5227, 0.3112]
    turned = (i + 1j * q) * np.exp(2j * np.pi * hue)
    yiq = np.stack([x @ LUMA, turned.real, turned.imag], -1)
    matrix = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    return (yiq @ np.linalg.inv(matrix).T).clip(0, 1)


FACTOR = st.floats(0.4, 1.6)


@settings(max_examples=50, deadline=None)
@given(FACTOR, FACTOR, FACTOR, st.floats(-0.5, 0.5), st.sampled_from([np.uint8, np.uint16, np.float32]))
def test_a_look_is_the_float_reference_within_a_level(brightness, contrast, saturation, hue, dtype):
    image = picture(dtype)
    light = 1 if dtype == np.float32 else np.iinfo(dtype).max
    look = colour_look(brightness, contrast, saturation, hue, mean_colour(image))
    out = look.apply(image)
    expected = reference(image.astype(np.float64) / light, brightness, contrast, saturation, hue) * light
    assert out.dtype == dtype
    assert np.abs(out - expected).max() <= (1e-5 if dtype == np.float32 else 1.01)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gamma_after_an_affine_map_is_one_table(gamma, dtype):
    image, light = picture(dtype), 1 if dtype == np.float32 else np.iinfo(dtype).max
    look = colour_look(1.2, 0.7, mean=mean_colour(image)).then(Look(np.eye(3, 4), gamma))
    mean = float(LUMA @ mean_colour(image)) * 1.2
    expected = (0.7 * 1.2 * (image / light) + 0.3 * mean).clip(0, 1) ** gamma * light
    assert np.abs(look.apply(image) - expected).max() <= (1e-5 if dtype == np.float32 else 1.01)


def test_the_order_of_colour_steps_does_not_matter_before_the_clip():
    image = (picture(np.float32) * 0.3 + 0.35).astype(np.float32)
    steps = [colour_look(brightness=1.1), colour_look(saturation=0.5), colour_look(hue=0.1)]
    forth, back = image, image
    for step in steps:
        forth = step.apply(forth)
    for step in reversed(steps):
        back = step.apply(back)
    np.testing.assert_allclose(forth, back, atol=1e-5)


def test_compose_fuses_looks_into_the_same_pixels():
    image = (picture(np.float32) * 0.3 + 0.35).astype(np.float32)
    steps = [ColorJitter(0.2, 0.2), RandomGrayscale(0.5), RandomGamma(p=1), ColorJitter(0.1, 0.3, 0.2, 0.05)]
    for seed in range(6):
        rng, sequential = generator(seed), Sample("x", image)
        for step in steps:
            sequential = step(sequential, rng)
        fused = Compose(steps)(Sample("x", image), generator(seed))
        np.testing.assert_allclose(fused.image, sequential.image, atol=1e-4)


def test_grey_is_the_luma_and_saturation_zero_is_grey():
    image = picture()
    grey = RandomGrayscale(p=1)(Sample("x", image), generator()).image
    assert np.abs(grey - (image @ LUMA)[..., None]).max() <= 1
    np.testing.assert_array_equal(grey, colour_look(saturation=0).apply(image))


def test_one_and_four_channels():
    grey = picture(channels=1)
    out = colour_look(0.5, saturation=0.2, hue=0.3).apply(grey)
    assert out.shape == grey.shape and np.abs(out - grey * 0.5).max() <= 1
    rgbn = picture(channels=4)
    out = colour_look(0.5, hue=0.2).apply(rgbn)
    np.testing.assert_array_equal(out[..., 3], rgbn[..., 3])
    np.testing.assert_array_equal(out[..., :3], colour_look(0.5, hue=0.2).apply(rgbn[..., :3]))


def test_nothing_asked_is_nothing_done():
    image = picture()
    np.testing.assert_array_equal(ColorJitter()(Sample("x", image), generator()).image, image)
    np.testing.assert_array_equal(ColorJitter(0.9, 0.9, p=0)(Sample("x", image), generator()).image, image)


def test_jitter_recolours_clean_and_noise_does_not():
    image = picture()
    clean = np.ascontiguousarray(image.transpose(2, 0, 1) / np.float32(255))
    sample = Sample("x", image, {"clean": clean})
    recoloured = ColorJitter(0.4, 0.4, 0.4, 0.1)(sample, generator())
    np.testing.assert_allclose(
        recoloured.targets["clean"] * 255, recoloured.image.transpose(2, 0, 1), atol=1.01
    )
    for damage in (GaussianNoise(p=1), GaussianBlur(p=1), RandomErasing(p=1), Cutout(10)):
        damaged = damage(sample, generator())
        assert (damaged.image != image).any()
        np.testing.assert_array_equal(damaged.targets["clean"], clean)
        np.testing.assert_array_equal(image, picture())  # the sample given is not written to


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_noise_has_its_deviation(dtype):
    light = 1 if dtype == np.float32 else np.iinfo(dtype).max
    image = np.full((200, 200, 1), 0.5 * light).astype(dtype)
    noisy = GaussianNoise(sigma=(0.05, 0.05), p=1)(Sample("x", image), generator()).image
    assert noisy.dtype == dtype
    assert noisy.std() / light == pytest.approx(0.05, rel=0.03)
    assert noisy.mean() / light == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_erasing_hides_one_rectangle_of_the_drawn_size(channels):
    image = np.ones((60, 80, channels), np.float32)
    for seed in range(20):
        out = RandomErasing(p=1, scale=(0.1, 0.2), value=0.0)(Sample("x", image), generator(seed)).image
        hidden = out[..., 0] == 0
        rows, columns = hidden.any(1).sum(), hidden.any(0).sum()
        assert rows * columns == hidden.sum() and 0.08 < hidden.mean() < 0.22
    hidden = Cutout(10, value=0.5)(Sample("x", image), generator()).image[..., 0] == 0.5
    assert 25 <= hidden.sum() <= 100


def test_the_same_generator_gives_the_same_picture():
    steps = Compose(
        [ColorJitter(0.4, 0.4, 0.4, 0.1), GaussianNoise(p=1), GaussianBlur(p=1), RandomErasing(p=1)]
    )
    one, two, three = (steps(Sample("x", picture()), generator(s)).image for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()


# HSV


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize(("exposure", "saturation"), [(1.0, 1.0), (0.8, 0.7), (1.2, 1.5), (1.0, 0.0)])
def test_exposure_and_saturation_are_those_of_hsv(dtype: type, exposure: float, saturation: float) -> None:
    light = 1.0 if dtype is np.float32 else float(np.iinfo(dtype).max)
    image = (np.random.default_rng(0).random((5, 6, 3)) * light).astype(dtype)
    expected = np.empty((5, 6, 3))
    for place in np.ndindex(5, 6):
        h, s, v = colorsys.rgb_to_hsv(*(image[place] / light))
        expected[place] = np.clip(colorsys.hsv_to_rgb(h, s * saturation, v * exposure), 0, 1)
    moved = expose(image, exposure, saturation)
    assert moved.dtype == dtype and moved.shape == image.shape
    np.testing.assert_allclose(moved / light, expected, atol=0.51 / 255 if dtype is np.uint8 else 1e-5)


def test_hsv_jitter_of_grey_and_of_many_channels_and_of_the_clean_picture() -> None:
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 100, (4, 5, 1), dtype=np.uint8)
    np.testing.assert_allclose(expose(grey, 1.5, 9.0), grey * 1.5, atol=0.5)
    five = rng.integers(0, 256, (4, 5, 5), dtype=np.uint8)
    moved = expose(five, 0.5, 0.5)
    assert (moved[..., 3:] == five[..., 3:]).all() and (
        moved[..., :3] == expose(five[..., :3], 0.5, 0.5)
    ).all()
    image = five[..., :3].astype(np.float32) / 255
    sample = Sample("a", image, {"clean": np.ascontiguousarray(image.transpose(2, 0, 1))})
    jitter = HSVJitter(1.5, 1.5)
    one, other = (jitter(sample, np.random.default_rng(seed)) for seed in (2, 3))
    assert (one.image != other.image).any() and (one.image != image).any()
    assert (one.targets["clean"] == one.image.transpose(2, 0, 1)).all()
    assert (HSVJitter(1.0, 1.0)(sample, rng).image == image).all()
