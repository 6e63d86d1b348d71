"""Reading masks: exact in every form that keeps pixels, refused by name in all others."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from class_masks import blobs, picture, save
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from retinue.datasets import mask_files
from retinue.datasets.mask_files import BETWEEN, DOUBTFUL, MIXTURES, in_between, look, read_codes, upright
from retinue.datasets.pictures import PictureError

COLOURS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 64), (255, 255, 255)], np.uint8)


def packed(mask: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) as 0xRRGGBB."""
    r, g, b = (mask[..., i].astype(np.uint32) for i in range(3))
    return r << 16 | g << 8 | b


def coloured() -> np.ndarray:
    return COLOURS[blobs([0, 1, 2, 3])]


# Numbers


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "pgm"])
def test_numbers_come_back_from_every_exact_format(tmp_path: Path, suffix: str) -> None:
    mask = blobs([0, 1, 7, 255])
    read = read_codes(save(tmp_path / f"m.{suffix}", mask))
    assert read.dtype == np.uint8 and (read == mask).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, suffix: str) -> None:
    mask = blobs([0, 1, 300, 65535])
    read = read_codes(save(tmp_path / f"m.{suffix}", mask))
    assert read.dtype == np.uint16 and (read == mask).all()


def test_a_palettes_indices_are_its_numbers_and_its_entries_the_colours(tmp_path: Path) -> None:
    mask = blobs([0, 1, 2, 3])
    image = Image.fromarray(mask)
    image.putpalette(COLOURS.ravel().tolist())
    image.save(tmp_path / "m.png")
    assert (read_codes(tmp_path / "m.png") == mask).all()
    assert (read_codes(tmp_path / "m.png", by_colour=True) == packed(COLOURS[mask])).all()


def test_a_look_keeps_the_palette_of_what_occurs(tmp_path: Path) -> None:
    image = Image.fromarray(blobs([0, 2]))
    image.putpalette(COLOURS.ravel().tolist())
    image.save(tmp_path / "m.png")
    assert look(picture(tmp_path / "a.png"), tmp_path / "m.png").colours.tolist() == [0, 0x008040]
    assert not len(look(tmp_path / "a.png", save(tmp_path / "grey.png", blobs([0, 2]))).colours)


@pytest.mark.parametrize("channels", [3, 4])
def test_greys_written_in_colours_are_numbers(tmp_path: Path, channels: int) -> None:
    mask = blobs([0, 1, 9])
    image = np.repeat(mask[..., None], channels, 2)
    image[..., 3:] = 255
    assert (read_codes(save(tmp_path / "m.png", image)) == mask).all()


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_any_numbers_come_back(tmp_path_factory: pytest.TempPathFactory, mask: np.ndarray) -> None:
    folder = tmp_path_factory.mktemp("m")
    assert (read_codes(save(folder / "m.png", mask)) == mask).all()
    small = (mask % 256).astype(np.uint8)
    assert (read_codes(save(folder / "s.png", small)) == small).all()
    assert (read_codes(folder / "s.png", by_colour=True) == small * np.uint32(0x010101)).all()


# Colours


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_colours_come_back(tmp_path: Path, suffix: str) -> None:
    read = read_codes(save(tmp_path / f"m.{suffix}", coloured()), by_colour=True)
    assert read.dtype == np.uint32 and (read == packed(coloured())).all()


# Refused


def test_colours_where_numbers_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"m\.png: is in colours, .*\(128, 0, 0\).*class_dict\.csv"):
        read_codes(save(tmp_path / "m.png", coloured()))


@pytest.mark.parametrize(("suffix", "name"), [("jpg", "JPEG"), ("webp", "WEBP")])
@pytest.mark.parametrize("by_colour", [False, True])
def test_lossy_formats(tmp_path: Path, suffix: str, name: str, by_colour: bool) -> None:
    with pytest.raises(
        PictureError, match=f"is a {name}, which may blur classes into others; write masks as PNG"
    ):
        read_codes(save(tmp_path / f"m.{suffix}", blobs([0, 1])), by_colour)


@pytest.mark.parametrize("by_colour", [False, True])
def test_transparent_pixels_are_of_no_sure_class(tmp_path: Path, by_colour: bool) -> None:
    image = np.dstack([coloured(), np.full((60, 80), 255, np.uint8)])
    image[:2, :3, 3] = 0
    with pytest.raises(PictureError, match=r"6 of its pixels are transparent.*without alpha"):
        read_codes(save(tmp_path / "m.png", image), by_colour)


def test_sixteen_bits_in_colours(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.png"), np.arange(36, dtype=np.uint16).reshape(3, 4, 3) * 300)
    for by_colour in (False, True):
        with pytest.raises(PictureError, match="16-bit RGB values"):
            read_codes(tmp_path / "m.png", by_colour)


def test_a_tiff_that_counts_from_white(tmp_path: Path) -> None:
    Image.fromarray(blobs([0, 1])).save(tmp_path / "m.tif", tiffinfo={262: 0})
    with pytest.raises(PictureError, match="does not count from black"):
        read_codes(tmp_path / "m.tif")


def test_an_empty_file_and_none(tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(b"")
    with pytest.raises(PictureError, match="empty"):
        read_codes(tmp_path / "m.png")
    with pytest.raises(PictureError, match="no such file"):
        read_codes(tmp_path / "n.png")


# Beside the picture


@pytest.mark.parametrize("stripe", [1, 100, 2**22])
def test_what_a_look_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stripe: int) -> None:
    monkeypatch.setattr(mask_files, "STRIPE", stripe)
    mask = blobs([0, 4, 255])
    seen = look(picture(tmp_path / "a.jpg"), save(tmp_path / "a.png", mask))
    values, counts = np.unique(mask, return_counts=True)
    assert seen.codes.tolist() == values.tolist() and seen.counts.tolist() == counts.tolist()
    assert (seen.fault, seen.frame, seen.mixed) == ("", 1, 0.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_compared_upright(tmp_path: Path, orientation: int) -> None:
    """The stored frame is 60 x 80; from orientation 5 on the picture shows 80 x 60."""
    path = picture(tmp_path / "a.jpg", (60, 80), orientation)
    stored, turned = blobs([0, 1]), blobs([0, 1], (80, 60))
    first = look(path, save(tmp_path / "stored.png", stored))
    second = look(path, save(tmp_path / "turned.png", turned))
    if orientation < 5:
        assert first.fault == "" and first.frame == 1
        assert "is 60x80, the picture 80x60" in second.fault
    else:
        assert first.fault == "" and first.frame == orientation
        assert second.fault == "" and second.frame == 1
        assert upright(stored, first.frame).shape == (80, 60)


def test_faults_end_with_a_remedy(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg")
    small = save(tmp_path / "small.png", blobs([0, 1], (30, 40)))
    noise = np.random.default_rng(0).integers(0, 65536, (60, 80)).astype(np.uint16)
    depth = save(tmp_path / "depth.png", noise)
    for mask, text in (
        (small, "is 40x30, the picture 80x60; "),
        (depth, "different values; it is a picture"),
    ):
        assert f"its mask {mask}" in look(path, mask).fault and text in look(path, mask).fault
    assert look(tmp_path / "b.jpg", small).fault == "there is no such file; correct the path"


# Resized


CLASSES = list(range(12))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("factor", [0.4, 0.5, 0.75, 1.5, 2])
def test_resized_masks_are_told_by_their_in_between_values(tmp_path: Path, factor: float, seed: int) -> None:
    mask = blobs(CLASSES, (160, 200), seed)
    path = picture(tmp_path / "a.png", tuple(round(side * factor) for side in mask.shape))
    faults = {}
    for name, method in (
        ("nearest", cv2.INTER_NEAREST),
        ("linear", cv2.INTER_LINEAR),
        ("cubic", cv2.INTER_CUBIC),
    ):
        resized = cv2.resize(mask, None, fx=factor, fy=factor, interpolation=method)
        faults[name] = look(path, save(tmp_path / f"{name}.png", resized)).fault
    assert faults["nearest"] == ""
    for name in ("linear", "cubic"):
        assert (
            "in-between values" in faults[name] and "resize masks by nearest neighbour only" in faults[name]
        )


@pytest.mark.parametrize("factor", [0.5, 0.7, 2])
def test_a_binary_mask_resized(factor: float) -> None:
    mask = np.where(blobs([0, 1], (240, 320)), 255, 0).astype(np.uint8)
    share, mixtures = in_between(cv2.resize(mask, None, fx=factor, fy=factor))
    assert share > 2 * BETWEEN and mixtures >= MIXTURES
    assert in_between(mask) == (0.0, 0)


def test_rings_are_no_mixtures_and_noise_is_no_mask(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), np.uint8)
    cv2.circle(mask, (50, 50), 30, 1, -1)
    cv2.circle(mask, (50, 50), 29, 2, -1)
    share, mixtures = in_between(mask)
    assert share > BETWEEN and mixtures == 1
    seen = look(picture(tmp_path / "a.png", (100, 100)), save(tmp_path / "m.png", mask))
    assert seen.fault == "" and seen.mixed > DOUBTFUL  # a warning
    assert in_between(np.random.default_rng(0).integers(0, 12, (100, 100)).astype(np.uint8)) == (0.0, 0)
    assert in_between(mask[:2, :2]) == in_between(mask[:1]) == (0.0, 0)


@pytest.mark.parametrize("stripe", [1, 150, 2**22])
def test_in_between_is_what_a_loop_counts(monkeypatch: pytest.MonkeyPatch, stripe: int) -> None:
    monkeypatch.setattr(mask_files, "STRIPE", stripe)
    mask = blobs(CLASSES, (40, 50))
    edges, found = 0, set()
    number = 0
    for plane in (mask.tolist(), mask.T.tolist()):
        for row in plane:
            for a, b, c in zip(row, row[1:], row[2:]):
                edges += a != c
                if min(a, c) < b < max(a, c):
                    number += 1
                    found.add((min(a, c), b, max(a, c)))
    assert in_between(mask) == (number / edges, len(found))
