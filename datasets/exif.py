"""Directories of integer fields as TIFF 6.0 lays them out, which EXIF and multi-picture JPEGs use too."""

import io
import re
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple


class Tag(NamedTuple):
    """The first value of a TIFF field and where in the file it stands."""

    value: int
    position: int


_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


def read_ifd(file: BinaryIO, at: int, order: str, big: bool) -> tuple[dict[int, Tag], int]:
    """The integer fields of one directory of a (big) TIFF, by tag, and the position of the next directory."""
    file.seek(at)
    (count,) = struct.unpack(order + "HQ"[big], file.read(2 + 6 * big))
    if count > 4096:
        raise ValueError(f"is corrupt: a TIFF directory of {count} fields")
    entry = struct.Struct(order + ("HHI4s", "HHQ8s")[big])
    offset = order + "IQ"[big]
    body = file.read(entry.size * count)
    following = file.read(4 + 4 * big)
    tags = {}
    for i, (tag, kind, number, raw) in enumerate(entry.iter_unpack(body)):
        if kind not in _INTEGERS:
            continue
        value = struct.Struct(order + _INTEGERS[kind])
        position = at + 2 + 6 * big + i * entry.size + entry.size - len(raw)
        if number * value.size > len(raw):
            (position,) = struct.unpack(offset, raw)
            file.seek(position)
            raw = file.read(value.size)
        if len(raw) >= value.size:
            tags[tag] = Tag(value.unpack(raw[: value.size])[0], position)
    return tags, struct.unpack(offset, following)[0] if len(following) == struct.calcsize(offset) else 0


def tiff_directories(file: BinaryIO) -> Iterator[dict[int, Tag]]:
    """The directories of a TIFF file, one a page. Raises ValueError or struct.error where it is corrupt."""
    file.seek(0)
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}[start[:2]]
    big = 43 in start[2:4]
    at = struct.unpack(order + "IQ"[big], start[8:16] if big else start[4:8])[0]
    seen: set[int] = set()
    while at and at not in seen and len(seen) < 10_000:
        seen.add(at)
        tags, at = read_ifd(file, at, order, big)
        yield tags


def first_directory(blob: bytes) -> Mapping[int, tuple[int, int]]:
    """The first directory of a TIFF structure in memory; empty where it is broken."""
    try:
        return next(tiff_directories(io.BytesIO(blob)), {})
    except (ValueError, KeyError, struct.error, OverflowError):
        return {}  # broken metadata does not make the picture unreadable


def exif_orientation(exif: bytes) -> int:
    """Orientation (1 to 8) in a block of EXIF without its "Exif" prefix; 1 where it says nothing valid."""
    value = first_directory(exif).get(274, (1, 0))[0]
    return value if 1 <= value <= 8 else 1


def xmp_orientation(xmp: bytes) -> int:
    """The orientation in a block of XMP; 1 where it says nothing valid."""
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])["<]', xmp)
    return int(found[1]) if found else 1
