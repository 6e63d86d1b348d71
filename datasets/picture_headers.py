"""What a picture file says of itself before anything is decoded: size, depth, orientation, frames."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from retinue.datasets.exif import exif_orientation, first_directory, tiff_directories, xmp_orientation

FORMATS = ("JPEG2000", "WEBP", "GIF", "BMP", "DIB", "PPM", "ICO", "PCX", "PSD", "SGI", "AVIF", "QOI", "DDS")
"""What Pillow opens for us; never EPS or WMF, which start programs. TGA, without magic, by its suffix."""

SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".pbm", ".pgm", ".ppm", ".pnm"), "PPM"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG2000"),
    **dict.fromkeys((".sgi", ".bw", ".rgb", ".rgba"), "SGI"),
    **{".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".dib": "DIB", ".tga": "TGA", ".ico": "ICO"},
    **{".pcx": "PCX", ".psd": "PSD", ".avif": "AVIF", ".qoi": "QOI", ".dds": "DDS"},
}
"""File name suffix (lower case) -> the format that it promises."""


@dataclass(frozen=True)
class Header:
    """A picture as its header describes it.

    width, height: in pixels as stored, before the EXIF orientation; `size` is after it.
    channels: 1 (grey), 3 (RGB), 4 (with alpha), or the bands of a scientific TIFF. mode: how they are stored
    ("L", "RGB", "P", "CMYK", ...). bits: per sample. orientation: EXIF, 1 to 8. frames: pictures in the file.
    """

    format: str
    mode: str
    width: int
    height: int
    channels: int
    bits: int = 8
    orientation: int = 1
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture as it is shown."""
        upright = self.orientation < 5
        return (self.height, self.width) if upright else (self.width, self.height)

    def notes(self, channels: int = 3, keep_depth: bool = False, suffix: str = "") -> tuple[str, ...]:
        """What reading the file with these wishes does to it, one short phrase a kind; mostly none."""
        promised = SUFFIXES.get(suffix.lower(), self.format)
        said = {
            f"{self.format} named {suffix.lower()}": self.format != promised,
            "16-bit scaled to 8-bit": self.bits == 16 and not keep_depth,
            "palette turned to colour": self.mode == "P",
            f"{self.mode} converted to RGB": self.mode in ("CMYK", "YCbCr", "LAB"),
            "alpha dropped": self.channels == 4 and channels < 4,
            "grey repeated": self.channels == 1 and channels > 1,
            "colour turned to luminance": self.channels > 1 and channels == 1,
            f"first of {self.frames} frames": self.frames > 1,
            f"EXIF orientation {self.orientation} applied": self.orientation > 1,
        }
        return tuple(note for note, true in said.items() if true)


def parse_header(file: BinaryIO, suffix: str = "") -> Header:
    """Header of an open picture file, whatever its name promises. Raises ValueError with what is wrong."""
    start = file.read(64)
    if start[:3] == b"\xff\xd8\xff":
        return _jpeg_header(file)
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_header(file)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff_header(file)
    if reason := _not_a_picture(start):
        raise ValueError(reason)
    return _pillow_header(file, suffix)


def _not_a_picture(start: bytes) -> str:
    """What a file that is no picture is, by its first bytes; empty where they do not tell."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kinds = {
        "is empty (0 bytes)": not start,
        "holds only zero bytes: an interrupted copy": len(start) > 16 and not start.strip(b"\0"),
        "is a web page (HTML), not a picture": text.startswith((b"<!doctype html", b"<html", b"<head")),
        "is an SVG drawing, not a picture of pixels": text.startswith((b"<svg", b"<?xml")),
        "is a Git LFS pointer, not the picture: run git lfs pull": text.startswith(
            b"version https://git-lfs"
        ),
        "is a PDF document, not a picture": start.startswith(b"%PDF"),
        "is a HEIC photo, which is not read here": start[4:8] == b"ftyp" and start[8:12] in _HEIC,
        "is an archive, not a picture": start.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf")),
    }
    return next((reason for reason, true in kinds.items() if true), "")


_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


# JPEG (ITU-T T.81, annex B)


def _jpeg_header(file: BinaryIO) -> Header:
    orientation = frames = 1
    frame = None
    for marker, body in _jpeg_segments(file):
        if marker in (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)):
            frame = struct.unpack(">BHHB", body[:6])
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            orientation = exif_orientation(body[6:])
        elif marker == 0xE1 and orientation == 1:
            orientation = xmp_orientation(body)
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            frames = first_directory(body[4:]).get(0xB001, (1, 0))[0]
    if frame is None:
        raise ValueError("is a JPEG without a frame header: truncated or corrupt")
    bits, height, width, channels = frame
    if not height or not width:
        raise ValueError(f"is a JPEG of {width}x{height} pixels")
    mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(channels, f"{channels} components")
    return Header("JPEG", mode, width, height, min(channels, 3), bits, orientation, max(frames, 1))


def _jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(marker, body) of each segment before the first scan; the bodies of bulky ones are left empty."""
    file.seek(2)
    while byte := file.read(1):
        if byte != b"\xff":
            continue
        while (byte := file.read(1)) == b"\xff":
            pass
        marker = byte[0] if byte else 0xD9
        if marker in (0xD9, 0xDA):
            return
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        length = int.from_bytes(file.read(2), "big") - 2
        wanted = marker in (0xE1, 0xE2) or 0xC0 <= marker <= 0xCF
        body = file.read(max(length, 0)) if wanted else b""
        if not wanted:
            file.seek(max(length, 0), io.SEEK_CUR)
        yield marker, body


_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # not stuffing, not a restart, not filling


def jpeg_is_complete(data: bytes) -> bool:
    """Whether a JPEG's scans are followed by the end-of-image marker, which a cut file lacks.

    Inside a scan 0xFF is stuffed, so that the first other marker ends it; a thumbnail's end does not count.
    Raises ValueError for more scans than any honest file has.
    """
    position, scans = 2, 0
    while found := _JPEG_MARKER.search(data, position):
        marker = data[found.start() + 1]
        if marker == 0xD9:
            return scans > 0
        if marker == 0xDA and (scans := scans + 1) > 1000:
            raise ValueError("is a JPEG with more than 1000 scans, made to waste time")
        length = data[found.end() : found.end() + 2]
        position = found.end() + int.from_bytes(length, "big")
    return False


# PNG (W3C PNG, third edition)


def _png_header(file: BinaryIO) -> Header:
    file.seek(8)
    fields = file.read(25)
    if len(fields) < 25 or fields[4:8] != b"IHDR":
        raise ValueError("is a PNG without a header: truncated")
    width, height, bits, colour = struct.unpack(">IIBB", fields[8:18])
    if not width or not height or colour not in _PNG_MODES:
        raise ValueError(f"is a PNG of {width}x{height} pixels and colour type {colour}: corrupt")
    mode, channels = _PNG_MODES[colour]
    orientation = frames = 1
    for kind, position, length in png_chunks(file):
        if kind == b"tRNS":
            channels = 4
        elif kind in (b"acTL", b"eXIf", b"iTXt", b"tEXt", b"zTXt") and length < 1 << 20:
            file.seek(position)
            body = file.read(length)
            if kind == b"acTL":
                frames = max(int.from_bytes(body[:4], "big"), 1)
            elif orientation == 1:
                orientation = _png_orientation(kind, body)
    return Header("PNG", mode, width, height, channels, bits, orientation, frames)


_PNG_MODES = {0: ("L", 1), 2: ("RGB", 3), 3: ("P", 3), 4: ("LA", 4), 6: ("RGBA", 4)}


def _png_orientation(kind: bytes, body: bytes) -> int:
    """The orientation in one chunk: EXIF, XMP, or the hexadecimal EXIF profile that ImageMagick wrote."""
    if kind == b"eXIf":
        return exif_orientation(body.removeprefix(b"Exif\0\0"))
    if kind == b"iTXt":
        return xmp_orientation(body)
    keyword, _, text = body.partition(b"\0")
    if keyword != b"Raw profile type exif":
        return 1
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], 1 << 20)
        return exif_orientation(bytes.fromhex("".join(text.decode().split()[2:])).removeprefix(b"Exif\0\0"))
    except (ValueError, zlib.error):
        return 1


def png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(kind, position of the body, its length) of each chunk; ends with IEND or where the file does."""
    position = 8
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        yield kind, position + 8, length
        if kind == b"IEND":
            return
        position += length + 12


def check_png(data: bytes) -> None:
    """Raise ValueError for a PNG that is cut or in which a chunk's checksum is wrong."""
    kind, view = b"", memoryview(data)
    for kind, position, length in png_chunks(io.BytesIO(data)):
        end = position + length
        if end + 4 > len(data):
            raise ValueError(f"is truncated: a PNG that ends inside its chunk {kind!r}")
        if zlib.crc32(view[position - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError(f"is corrupt: the checksum of its PNG chunk {kind!r} is wrong")
    if kind != b"IEND":
        raise ValueError("is truncated: a PNG without its last chunk")


def png_still(data: bytes, header: Header) -> bytes:
    """A PNG without its animation: some decoders blend its first frame, others do not know of it."""
    if header.frames == 1:
        return data
    parts = [data[:8]]
    for kind, position, length in png_chunks(io.BytesIO(data)):
        if kind not in (b"acTL", b"fcTL", b"fdAT"):
            parts.append(data[position - 8 : position + length + 4])
    return b"".join(parts)


# TIFF 6.0


def _tiff_header(file: BinaryIO) -> Header:
    pages = tiff_directories(file)
    tags = {tag: field.value for tag, field in next(pages, {}).items()}
    width, height = tags.get(256, 0), tags.get(257, 0)
    if not width or not height:
        raise ValueError("is a TIFF without a picture: truncated or corrupt")
    samples, bits, photometric = tags.get(277, 1), tags.get(258, 1), tags.get(262, 1)
    if tags.get(339, 1) != 1 or bits not in (1, 2, 4, 8, 16):
        kind = {2: "signed", 3: "floating-point"}.get(tags.get(339, 1), "unsigned")
        raise ValueError(f"is a TIFF with {bits}-bit {kind} values, whose range is not known")
    known = (samples, photometric) in _TIFF_MODES
    mode, channels = _TIFF_MODES[samples, photometric] if known else (f"{samples} bands", samples)
    if mode == "RGBA" and tags.get(338, 0) == 0:
        mode = "4 bands"
    orientation = tags.get(274, 1) if 1 <= tags.get(274, 1) <= 8 else 1
    return Header("TIFF", mode, width, height, channels, bits, orientation, 1 + sum(1 for _ in pages))


_TIFF_MODES = {
    **{(1, 0): ("L", 1), (1, 1): ("L", 1), (1, 3): ("P", 3), (3, 2): ("RGB", 3), (4, 2): ("RGBA", 4)},
    **{(4, 5): ("CMYK", 3), (3, 6): ("YCbCr", 3), (3, 8): ("LAB", 3)},
}


# Everything else, through Pillow


def open_pillow(file: BinaryIO, suffix: str = "", more: tuple[str, ...] = ()) -> Image.Image:
    """Open a picture with Pillow in the formats that we let in; nothing is decoded yet."""
    Image.init()
    wanted = (*FORMATS, *more, *(("TGA",) if suffix.lower() == ".tga" else ()))
    return Image.open(file, formats=[name for name in wanted if name in Image.OPEN])


def _pillow_header(file: BinaryIO, suffix: str) -> Header:
    file.seek(0)
    image = open_pillow(file, suffix)
    mode, bits = image.mode, 16 if image.mode in ("I", "I;16", "I;16B", "I;16L") else 8
    alpha = mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    channels = 4 if alpha else 1 if mode in ("1", "L", "I", "I;16", "I;16B", "I;16L", "F") else 3
    if image.format == "PPM":
        bits = 16 if pnm_maximum(file) > 255 else 8
    orientation = image.getexif().get(274, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    name = image.format or ""
    return Header(
        name, mode, image.width, image.height, channels, bits, orientation, getattr(image, "n_frames", 1)
    )


def pnm_maximum(file: BinaryIO) -> int:
    """The value of white in a PGM or PPM file; 1 in a PBM file."""
    file.seek(0)
    words = re.sub(rb"#[^\n]*", b"", file.read(1024)).split(maxsplit=4)
    return int(words[3]) if words[0] in (b"P2", b"P3", b"P5", b"P6") else 1
