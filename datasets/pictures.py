"""The one reader of all pictures: RGB, upright, whole, or refused by name."""

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np

from retinue.datasets.exif import first_directory
from retinue.datasets.picture_headers import (
    SUFFIXES,
    Header,
    check_png,
    jpeg_is_complete,
    open_pillow,
    parse_header,
    png_still,
    pnm_maximum,
)
from retinue.datasets.targets import DataError

IMAGE_SUFFIXES = frozenset(SUFFIXES)
"""Lower-case suffixes of the files that data sets take for pictures."""

MAX_PIXELS = 178_956_970
"""Larger pictures are refused unread; twice Pillow's warning level, 512 MiB as RGB."""


class PictureError(DataError):
    """A picture that cannot be read whole: the message names the file, what is wrong and what to do."""


class Picture(NamedTuple):
    """What `read_picture` returns.

    image: (h, w, channels) uint8, or uint16 where that was asked for and the file has it; RGB, upright.
    notes: what had to be done to the file beyond decoding it, one phrase a kind; to be said once in a log.
    """

    image: np.ndarray
    notes: tuple[str, ...]


def read_header(path: str | Path) -> Header:
    """Size, depth, orientation and frames of a picture file, without decoding it. Raises PictureError."""
    path = Path(path)
    with _refused(path), path.open("rb") as file:
        return parse_header(file, path.suffix)


def read_picture(
    path: str | Path, channels: int = 3, keep_depth: bool = False, max_pixels: int = MAX_PIXELS
) -> Picture:
    """Read a picture file in any format that we know, with its EXIF orientation applied.

    channels: 3 gives RGB, 1 luminance (BT.601), 4 RGB with alpha (opaque where there is none); another number
    only for files that have as many. Alpha is dropped, not blended; animations give their first frame; 16-bit
    values become 8-bit by rounding x / 257 unless `keep_depth`; colour profiles are not applied.
    Raises PictureError: missing, empty, cut, corrupt or unknown files, and those of more than `max_pixels`,
    which are refused by their header alone. (Beyond Pillow's limit only JPEG and plain PNG can be let in.)
    A JPEG whose coded data was altered without being cut cannot be told from a whole one.
    """
    path = Path(path)
    with _refused(path), path.open("rb") as file:
        header = _accepted(file, path, max_pixels)
        file.seek(0)
        image = _decode(file.read(), header, path.suffix)
        if image.shape[:2] != (header.height, header.width):
            raise ValueError(f"is corrupt: announced {header.height}x{header.width}, found {image.shape[:2]}")
        image = _with_channels(orient(image, header.orientation), channels)
        if image.dtype == np.uint16 and not keep_depth:
            image = to_8_bits(image)
        return Picture(np.ascontiguousarray(image), header.notes(channels, keep_depth, path.suffix))


def check_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> Header:
    """Raise PictureError exactly where `read_picture` would, more cheaply where that can be; else the header.

    An ordinary JPEG is decoded at an eighth of its size: its coded data is read whole all the same.
    """
    path = Path(path)
    with _refused(path), path.open("rb") as file:
        header = _accepted(file, path, max_pixels)
        file.seek(0)
        data = file.read()
        if not (_is_plain_jpeg(header) and _cv2_thumbnail(data)):
            image = _decode(data, header, path.suffix)
            if image.shape[:2] != (header.height, header.width):
                raise ValueError(f"is corrupt: announced {header.height}x{header.width}, found {image.shape}")
        return header


def read_indices(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a mask whose pixels are numbers: (h, w) uint8 or uint16, upright; of a palette the indices, not colours.

    Raises PictureError as `read_picture` does, and for files with colours, floats or lossy compression.
    """
    path = Path(path)
    with _refused(path), path.open("rb") as file:
        header = _accepted(file, path, max_pixels)
        file.seek(0)
        data = file.read()
        if header.format not in ("PNG", "BMP", "GIF", "PPM") or header.mode not in _INDEX_MODES:
            mode = f"is a {header.format} of mode {header.mode}"
            raise ValueError(f"{mode}, not one number a pixel, as a grey or palette PNG is")
        if header.format == "PNG":
            check_png(data)
        image = open_pillow(io.BytesIO(data), path.suffix, ("PNG",))
        image.load()
        indices = np.asarray(image)
        if indices.ndim != 2:
            raise ValueError(f"is a {header.format} that decodes to {image.mode}, not to one number a pixel")
        if header.format == "PNG" and data[25] == 0 and data[24] in (2, 4):
            indices = indices // (255 // (2 ** data[24] - 1))  # Pillow spreads grey values of few bits
        if indices.min() < 0 or indices.max() > 65535:
            raise ValueError(f"has values from {indices.min()} to {indices.max()}, beyond 16 bits")
        deep = np.uint16 if indices.dtype.itemsize > 1 else np.uint8
        return np.ascontiguousarray(orient(indices.astype(deep), header.orientation))


_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into a PictureError; decoders raise nearly every exception there is."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError("is a pipe or a device, not a file")  # opening one may wait for ever
        yield
    except PictureError:
        raise
    except FileNotFoundError:
        raise PictureError(f"{path}: there is no such file; correct the path") from None
    except IsADirectoryError:
        raise PictureError(f"{path}: is a folder, not a picture; name a file in it") from None
    except PermissionError:
        raise PictureError(f"{path}: may not be read; change its permissions") from None
    except ValueError as error:
        raise PictureError(f"{path}: {_reason(error)}; replace the file or leave it out") from None
    except Exception as error:
        reason = f"cannot be decoded ({type(error).__name__}: {_reason(error)})"
        raise PictureError(f"{path}: {reason}; replace the file or leave it out") from None


def _reason(error: Exception) -> str:
    text = re.sub(r"<_io\.\w+ [^>]*>", "this file", str(error))
    return " ".join(text.split())[:300]


def _accepted(file: BinaryIO, path: Path, max_pixels: int) -> Header:
    header = parse_header(file, path.suffix)
    if (pixels := header.width * header.height) > max_pixels:
        size = f"{header.width}x{header.height}"
        raise PictureError(
            f"{path}: {size} = {pixels:,} pixels, the limit is {max_pixels:,}; "
            "make it smaller, or raise max_pixels if you trust it"
        )
    return header


# Decoding: (h, w) or (h, w, c) as stored, RGB order, not yet upright


def _decode(data: bytes, header: Header, suffix: str) -> np.ndarray:
    if header.format == "PNG":
        check_png(data)
        plain = header.bits == 8 and header.mode in ("L", "RGB") and header.channels < 4
        image = _decode_cv2(png_still(data, header)) if plain or header.bits == 16 else None
        return _decode_pillow(data, "PNG", suffix) if image is None else image
    if header.format == "JPEG":
        whole = _is_plain_jpeg(header) and jpeg_is_complete(data)
        image = _decode_cv2(data) if whole else None
        return _decode_pillow(data, "JPEG", suffix) if image is None else image
    if header.format == "TIFF":
        return _decode_tiff(data, header)
    if header.format == "JPEG2000" and b"\xff\xd9" not in data[max(data.find(b"\xff\x93"), 0) :]:
        raise ValueError("is truncated: a JPEG 2000 without its end marker")  # which decoders do not mind
    if header.format == "PPM" and header.bits == 16:
        return _decode_deep_pnm(data)
    return _decode_pillow(data, header.format, suffix)


def _is_plain_jpeg(header: Header) -> bool:
    return header.format == "JPEG" and header.mode in ("L", "RGB") and header.bits == 8


def _decode_cv2(data: bytes) -> np.ndarray | None:
    """As stored, in the file's depth; IMREAD_UNCHANGED leaves the orientation alone. None where it fails."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        return None
    if image.ndim == 3 and image.shape[2] in (3, 4):
        order = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        return cv2.cvtColor(image, order)
    return image


def _cv2_thumbnail(data: bytes) -> bool:
    flags = cv2.IMREAD_REDUCED_GRAYSCALE_8 | cv2.IMREAD_IGNORE_ORIENTATION
    return jpeg_is_complete(data) and cv2.imdecode(np.frombuffer(data, np.uint8), flags) is not None


def _decode_pillow(data: bytes, format: str, suffix: str) -> np.ndarray:
    more = ("JPEG", "MPO") if format == "JPEG" else (format,)
    image = open_pillow(io.BytesIO(data), suffix, more)
    image.load()
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):
        return np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    if image.mode == "F":
        raise ValueError("has floating-point values, whose range is not known")
    if "transparency" in image.info or image.mode in ("RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "RGBA", "RGBX"):
        image = image.convert("RGB")
    return np.array(image)


def _decode_tiff(data: bytes, header: Header) -> np.ndarray:
    tags = first_directory(data)
    _, position = tags.get(274, (1, 0))
    if position:  # some decoders obey the orientation and some do not: none gets to see it
        order = {b"II": "<", b"MM": ">"}[data[:2]]
        data = data[:position] + struct.pack(order + "H", 1) + data[position + 2 :]
    in_planes = tags.get(284, (1, 0))[0] == 2 and header.channels > 1
    premultiplied = header.mode == "RGBA" and tags.get(338, (2, 0))[0] == 1
    bands, deep = header.mode.endswith("bands"), header.bits == 16
    if (bands and (in_planes or header.channels != 4)) or (deep and in_planes):
        return _decode_bands(data, header)
    if not (bands or deep):
        return _decode_pillow(data, "TIFF", "")
    if premultiplied or not (bands or header.mode in ("L", "RGB", "RGBA")):
        raise ValueError(f"is a 16-bit {header.mode} TIFF of a rare kind; save it as 16-bit RGB or as 8-bit")
    image = _decode_cv2(data)
    if image is None:
        raise ValueError("cannot be decoded: a 16-bit TIFF that is corrupt or oddly packed")
    white_is_zero = tags.get(262, (1, 0))[0] == 0
    return np.iinfo(image.dtype).max - image if white_is_zero else image


def _decode_bands(data: bytes, header: Header) -> np.ndarray:
    """A TIFF that neither Pillow nor OpenCV reads right, (h, w, bands)."""
    try:
        import tifffile  # optional, and needed by few
    except ImportError:
        raise ValueError(
            f"is a {header.mode} TIFF of a kind that needs tifffile (pip install tifffile)"
        ) from None
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        image = np.asarray(page.asarray())
    if (
        image.ndim == 3
        and image.shape[0] == header.channels
        and image.shape[1:] == (header.height, header.width)
    ):
        image = image.transpose(1, 2, 0)
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"is a {header.mode} TIFF in {image.dtype}; save it as uint8 or uint16")
    return image


def _decode_deep_pnm(data: bytes) -> np.ndarray:
    image = _decode_cv2(data)
    if image is None:
        raise ValueError("is truncated or corrupt: a 16-bit PGM or PPM that cannot be decoded")
    white = pnm_maximum(io.BytesIO(data))
    return np.minimum(np.rint(image * (65535 / white)), 65535).astype(np.uint16)


# From what was stored to what was asked for


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """The upright view of an image (h, w, ...) that was stored with this EXIF orientation (1 to 8)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    mirror, turn = ((False, False), (True, False), (True, True), (False, True))[(orientation - 1) % 4]
    if mirror:
        image = image[:, ::-1]
    return image[::-1] if turn else image


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """uint16 -> uint8, x / 257 rounded to the nearest, so that 65535 becomes 255 and 257 k becomes k."""
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """(h, w) or (h, w, c) -> (h, w, channels)."""
    image = image[:, :, None] if image.ndim == 2 else image
    have = image.shape[2]
    if have == channels:
        return image
    if have not in (1, 3, 4) or channels not in (1, 3, 4):
        raise ValueError(f"has {have} channels where {channels} were asked for; ask for {have}")
    if channels == 1:
        return cv2.cvtColor(np.ascontiguousarray(image[:, :, :3]), cv2.COLOR_RGB2GRAY)[:, :, None]
    colour = np.repeat(image, 3, axis=2) if have == 1 else image[:, :, :3]
    if channels == 3:
        return colour
    opaque = np.full((*image.shape[:2], 1), np.iinfo(image.dtype).max, image.dtype)
    return np.concatenate([colour, opaque], axis=2)
