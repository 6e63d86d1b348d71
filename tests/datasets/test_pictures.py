"""The reader of pictures: every odd file is read exactly or refused by name."""

import io
import os
import struct
import subprocess
import sys
import textwrap
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from retinue.datasets.pictures import PictureError, check_picture, read_header, read_picture, to_8_bits

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "test_photos"


def smooth(height: int = 24, width: int = 40) -> np.ndarray:
    """A smooth picture (height, width, 3) uint8 that no flip or turn leaves as it is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 200 // width, y * 200 // height, (x + 2 * y) % 150], axis=2).astype(np.uint8)


def encoded(image: np.ndarray, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(values: np.ndarray, colour: int, *between: bytes) -> bytes:
    """A 16-bit PNG written by hand, (h, w, samples) uint16."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *between, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (bytes(5000), "only zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"plain words", "cannot be decoded"),
        (b"\xff\xd8\xff", "JPEG without a frame"),
        (b"\x89PNG\r\n\x1a\n", "PNG without a header"),
        (b"II*\0\x08\0\0\0", "cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for read in (read_header, read_picture, check_picture):
        with pytest.raises(PictureError, match=reason) as error:
            read(path)
        assert str(path) in str(error.value) and ";" in str(error.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no such file"):
        read_picture(tmp_path / "none.png")
    with pytest.raises(PictureError, match="is a folder"):
        read_picture(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(PictureError, match="is a pipe"):
        read_picture(tmp_path / "pipe.jpg")


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(PictureError, match="32-bit floating-point"):
        read_picture(tmp_path / "f.tif")


# Pictures made to exhaust memory


def one_colour_png(side: int, path: Path) -> None:
    packer = zlib.compressobj(1)
    row = bytes(1 + side)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    one_colour_png(17_000, tmp_path / "colour.png")
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    (tmp_path / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header))
    (tmp_path / "header.bmp").write_bytes(
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, *[0] * 6)
    )
    jpeg = bytearray(encoded(smooth(), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    (tmp_path / "header.jpg").write_bytes(jpeg)
    code = """
        import resource, sys, time
        from pathlib import Path
        from retinue.datasets.pictures import PictureError, check_picture, read_picture
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for path in sorted(Path(sys.argv[1]).iterdir()):
            before, start = peak(), time.perf_counter()
            for read in (read_picture, check_picture):
                try:
                    read(path)
                except PictureError as error:
                    assert "pixels" in str(error), error
                else:
                    raise SystemExit(f"{path} was read")
            print(path.name, time.perf_counter() - start, peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 4
    for name, seconds, mebibytes in lines:
        assert float(seconds) < 0.5, name
        assert float(mebibytes) < 50, name


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(smooth(), "PNG"))
    assert read_picture(tmp_path / "a.png", max_pixels=24 * 40).image.shape == (24, 40, 3)
    with pytest.raises(PictureError, match="40x24 = 960 pixels, the limit is 959"):
        read_picture(tmp_path / "a.png", max_pixels=24 * 40 - 1)


# Cut and altered files

FILES = {
    "jpeg": encoded(smooth(), "JPEG"),
    "progressive": encoded(smooth(), "JPEG", progressive=True, restart_marker_rows=1),
    "grey": encoded(smooth()[..., 0], "JPEG", comment=b"a\xff\xd9b"),
    "png": encoded(smooth(), "PNG"),
    "deep": png(smooth().astype(np.uint16) * 257, 2),
    "plain": encoded(smooth()[..., 0] // 16, "PNG", bits=4),
    "jpeg 2000": encoded(smooth(), "JPEG2000"),
    "webp": encoded(smooth(), "WEBP"),
    "gif": encoded(smooth(), "GIF"),
    "tiff": encoded(smooth(), "TIFF", compression="tiff_lzw"),
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut") / "picture.jpg"


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(FILES)), part=st.floats(0, 1))
def test_a_cut_file_is_refused_or_whole(scratch: Path, name: str, part: float) -> None:
    data = FILES[name]
    scratch.write_bytes(data)
    whole = read_picture(scratch).image
    scratch.write_bytes(data[: int(part * len(data))])
    try:
        image = read_picture(scratch).image
    except PictureError:
        with pytest.raises(PictureError):
            check_picture(scratch)
    else:
        assert np.array_equal(image, whole)
        assert check_picture(scratch).size == image.shape[:2]


def test_a_thumbnails_end_does_not_make_a_jpeg_whole(scratch: Path) -> None:
    exif = Image.Exif()
    exif[270] = "\xff\xd9"
    data = encoded(smooth(96, 128), "JPEG", exif=b"Exif\0\0" + FILES["jpeg"])
    scratch.write_bytes(data[: data.index(b"\xff\xda") + 200])
    with pytest.raises(PictureError, match="truncated"):
        read_picture(scratch)


def test_a_jpeg_filled_up_with_zeros_is_refused(scratch: Path) -> None:
    data = encoded(smooth(96, 128), "JPEG")
    scratch.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(PictureError):
        read_picture(scratch)


def test_trailing_bytes_are_allowed(scratch: Path) -> None:
    for name in ("jpeg", "progressive", "png"):
        scratch.write_bytes(FILES[name])
        whole = read_picture(scratch).image
        scratch.write_bytes(FILES[name] + b"trailing bytes" * 1000)
        assert np.array_equal(read_picture(scratch).image, whole)


ALTERED = {
    **FILES,
    **{format: encoded(smooth(), format) for format in ("TIFF", "BMP", "PPM", "TGA", "PCX", "ICO", "SGI")},
}


@settings(max_examples=600, deadline=None)
@given(
    name=st.sampled_from(sorted(ALTERED)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
    early=st.booleans(),
)
def test_altered_bytes_never_crash(
    scratch: Path, name: str, flips: list[tuple[float, int]], early: bool
) -> None:
    data = bytearray(ALTERED[name])
    for where, what in flips:
        data[int(where * (min(len(data), 120) if early else len(data)))] ^= what
    scratch.write_bytes(data)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcomes = []
        for read in (read_picture, check_picture):
            try:
                read(scratch, max_pixels=10_000_000)
                outcomes.append("read")
            except PictureError:
                outcomes.append("refused")
    assert outcomes[0] == outcomes[1]
    assert time.perf_counter() - start < 5


def test_checksums_catch_an_altered_byte_of_a_png(scratch: Path) -> None:
    for name in ("png", "deep"):
        for i in range(8, len(FILES[name]), 3):
            data = bytearray(FILES[name])
            data[i] ^= 0x10
            scratch.write_bytes(data)
            with pytest.raises(PictureError):
                read_picture(scratch)


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
