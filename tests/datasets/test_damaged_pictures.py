"""Files that are no picture, cut, altered, or made to exhaust memory: refused by name, never a crash."""

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
from picture_bytes import chunk, encoded, png, smooth
from PIL import Image

from retinue.datasets.pictures import PictureError, check_picture, read_header, read_picture


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
