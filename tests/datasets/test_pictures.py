"""The reader of pictures: every odd file is read exactly, as Pillow reads it."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from picture_bytes import chunk, encoded, png, smooth
from PIL import Image, ImageOps

from retinue.datasets.pictures import PictureError, check_picture, read_header, read_picture, to_8_bits

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "test_photos"


STORED = {
    # how the upright picture is stored so that this orientation shows it upright (TIFF 6.0, tag 274)
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("format", "suffix"), [("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp"), ("JPEG", "jpg")]
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, format: str, suffix: str) -> None:
    upright = smooth()
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    path = tmp_path / f"o{orientation}.{suffix}"
    path.write_bytes(
        encoded(np.ascontiguousarray(STORED[orientation](upright)), format, exif=exif, **options)
    )

    image, notes = read_picture(path)
    assert image.shape == upright.shape
    tolerance = 3 if format == "JPEG" else 0
    assert np.abs(image.astype(int) - upright).max() <= tolerance
    assert read_header(path).size == upright.shape[:2]
    assert (f"EXIF orientation {orientation} applied" in notes) == (orientation > 1)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_exif_orientation_of_deep_files(tmp_path: Path, orientation: int) -> None:
    upright = smooth().astype(np.uint16) * 250 + 3
    stored = np.ascontiguousarray(STORED[orientation](upright))
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "a.png").write_bytes(png(stored, 2, chunk(b"eXIf", exif.tobytes()[6:])))
    grey = Image.fromarray(np.ascontiguousarray(stored[..., 0]))
    grey.save(tmp_path / "b.tif", exif=exif)
    assert np.array_equal(read_picture(tmp_path / "a.png", keep_depth=True).image, upright)
    assert np.array_equal(read_picture(tmp_path / "b.tif", 1, keep_depth=True).image, upright[..., :1])


def test_16_bit_values_are_exact(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    path = tmp_path / "grey.png"
    path.write_bytes(png(values, 0))
    assert np.array_equal(read_picture(path, 1, keep_depth=True).image, values)
    image, notes = read_picture(path, 1)
    assert np.array_equal(image, np.rint(values / 257).astype(np.uint8))
    assert notes == ("16-bit scaled to 8-bit",)
    colour = np.concatenate([values, values[::-1], values.transpose(1, 0, 2)], axis=2)
    path.write_bytes(png(colour, 2))
    assert np.array_equal(read_picture(path, keep_depth=True).image, colour)
    (tmp_path / "grey.pgm").write_bytes(b"P5 256 256 65535\n" + values.astype(">u2").tobytes())
    assert np.array_equal(read_picture(tmp_path / "grey.pgm", 1, keep_depth=True).image, values)
    (tmp_path / "twelve.ppm").write_bytes(
        b"P6\n# a comment\n2 1\n4095\n" + np.array([0, 4095, 2048, 1, 2, 3], ">u2").tobytes()
    )
    twelve = read_picture(tmp_path / "twelve.ppm", keep_depth=True).image
    assert twelve.ravel().tolist() == [0, 65535, 32776, 16, 32, 48]


def test_16_bits_become_8_by_rounding() -> None:
    assert to_8_bits(np.array([0, 128, 129, 257, 65535], np.uint16)).tolist() == [0, 0, 1, 1, 255]


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=bytes([0, 200]))
    read = read_picture(tmp_path / "p.png")
    assert read.image.tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert read.notes == ("palette turned to colour", "alpha dropped")
    assert read_picture(tmp_path / "p.png", 4).image.tolist() == [[[10, 20, 30, 0], [40, 50, 60, 200]]]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "c.jpg", quality=95)
    image, notes = read_picture(tmp_path / "c.jpg")
    assert np.abs(image.astype(int) - [0, 255, 255]).max() <= 3  # no red where there is all cyan
    assert notes == ("CMYK converted to RGB",)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(tmp_path: Path, channels: int) -> None:
    grey, colour = tmp_path / "grey.png", tmp_path / "colour.png"
    Image.new("L", (3, 2), 77).save(grey)
    Image.new("RGB", (3, 2), (255, 0, 0)).save(colour)
    want_grey = {1: [77], 3: [77] * 3, 4: [77, 77, 77, 255]}[channels]
    want_colour = {1: [76], 3: [255, 0, 0], 4: [255, 0, 0, 255]}[channels]  # 0.299 * 255
    assert (read_picture(grey, channels).image == want_grey).all()
    assert (read_picture(colour, channels).image == want_colour).all()
    assert read_picture(colour, channels).image.shape == (2, 3, channels)


def test_many_bands_need_their_own_number(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    bands = np.random.default_rng(0).integers(0, 65536, (6, 5, 7)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "7.tif", bands, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(
        tmp_path / "s.tif", bands.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"
    )
    for name in ("7.tif", "s.tif"):
        assert np.array_equal(read_picture(tmp_path / name, 7, keep_depth=True).image, bands)
        with pytest.raises(PictureError, match="has 7 channels where 3 were asked for"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("channels", "options"),
    [
        (1, {"photometric": "minisblack"}),
        (1, {"photometric": "miniswhite"}),
        (3, {"photometric": "rgb", "byteorder": ">"}),
        (3, {"photometric": "rgb", "planarconfig": "separate"}),
        (3, {"photometric": "rgb", "tile": (16, 16), "compression": "deflate", "predictor": True}),
        (3, {"photometric": "rgb", "bigtiff": True}),
        (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        (2, {"photometric": "minisblack", "planarconfig": "contig"}),
    ],
)
def test_tiff_layouts(tmp_path: Path, depth: type, channels: int, options: dict[str, object]) -> None:
    tifffile = pytest.importorskip("tifffile")
    top = np.iinfo(depth).max
    values = np.random.default_rng(1).integers(0, top, (20, 30, channels), endpoint=True).astype(depth)
    stored = values.transpose(2, 0, 1) if options.get("planarconfig") == "separate" else values
    stored = top - stored if options["photometric"] == "miniswhite" else stored
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored[..., 0] if channels == 1 else stored, **options)
    assert np.array_equal(read_picture(path, channels, keep_depth=True).image, values)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    for suffix, options in (("gif", {}), ("png", {}), ("webp", {"lossless": True}), ("tif", {})):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        image, notes = read_picture(path)
        assert (image == [255, 0, 0]).all()
        assert "first of 3 frames" in notes


def test_names_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "Ünï çødé 图片 🐝.jpg"
    path.write_bytes(encoded(smooth(), "PNG"))
    image, notes = read_picture(str(path))
    assert np.array_equal(image, smooth())
    assert notes == ("PNG named .jpg",)


# Real odd files

REFUSED = {
    "broken_data_stream.png": "checksum",
    "truncated_end_chunk.png": "truncated",
    "truncated_image.png": "truncated",
    "LICENSE": "cannot be decoded",
}
DEEP = {"16bit.cropped.tif": None, "hopper_16bit.pgm": None, "i_trns.png": None, "mode_16bit.png": 1}


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="shared/data/test_photos is absent")
def test_pillows_odd_files_are_read_as_pillow_does_or_refused_by_name() -> None:
    files = sorted(path for path in PHOTOS.rglob("*") if path.is_file())
    assert len(files) > 50
    for path in files:
        if path.name in REFUSED:
            with pytest.raises(PictureError, match=REFUSED[path.name]):
                read_picture(path)
            continue
        image = read_picture(path).image
        assert check_picture(path).size == image.shape[:2]
        with warnings.catch_warnings(), Image.open(path) as file:
            warnings.simplefilter("ignore")
            shown = ImageOps.exif_transpose(file)
            if path.name in DEEP and DEEP[path.name] is None:  # where Pillow clips to 255 on its way to RGB
                expected = np.repeat(to_8_bits(np.asarray(shown).astype(np.uint16))[..., None], 3, axis=2)
            else:
                expected = np.asarray(shown.convert("RGB"))
        assert image.shape == expected.shape, path.name
        difference = np.abs(image.astype(int) - expected).max()
        assert difference <= (1 if path.name in DEEP or path.suffix == ".jpg" else 0), path.name
