"""Mask files: what each pixel holds, a number or a colour, read exactly or refused by name."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from retinue.datasets.exif import tiff_directories
from retinue.datasets.picture_headers import open_pillow
from retinue.datasets.pictures import PictureError, orient, read_header, read_indices, read_picture

EXACT = ("PNG", "BMP", "GIF", "PPM", "TIFF")
"""Formats that keep every pixel as it was written."""

NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
"""Modes with one number a pixel."""

MOST = 4096
"""More different values in one file are a picture, not a mask."""

BETWEEN, DOUBTFUL = 0.08, 0.05
"""Of the places where a class ends, the share whose pixel lies between its two neighbours' values: from here on a mask
was resized by interpolation, or may have been. Of all 701 masks of CamVid none has more than 0.02, and under other
numberings, shrunk by nearest neighbour to 0.3, 0.06; bilinear, bicubic and area resizing by 0.3 to 3 (not by
whole factors) make 0.07 to 0.55, with a median of 0.13 and more (measured)."""

STRIPE = 2**22
"""Pixels that are judged at a time."""

EDGES = 50
"""On fewer such places nothing is said."""

MIXTURES = 6
"""Fewer different triples of values may be rings of one class around another."""


@dataclass(frozen=True)
class MaskSeen:
    """What reading one mask beside its picture found.

    codes: (k,) int64, the values that occur, sorted; counts: (k,) int64, the pixels of each. colours: (k,) int64, the
    entries 0xRRGGBB of a palette for them, empty where there is none. frame: the EXIF orientation by which the mask
    must be turned with its picture, 1 for none. mixed: the share of in-between pixels where it is suspicious, else 0.
    form: whether the file holds numbers, colours that all are greys, or others. fault: why it cannot be used, "reason;
    remedy", or "".
    """

    codes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    colours: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    frame: int = 1
    mixed: float = 0.0
    form: Literal["numbers", "greys", "colours"] = "numbers"
    fault: str = ""


class InColours(PictureError):
    """A mask in colours where numbers are asked for."""


def read_codes(path: Path, by_colour: bool = False) -> np.ndarray:
    """What a mask's pixels hold, upright: numbers (h, w) uint8 or uint16, or colours (h, w) uint32, 0xRRGGBB.

    Of a palette the indices are the numbers, its entries the colours; but a GIF has a palette even where it is grey, so
    that its greys are its numbers. A grey v is the colour v, v, v, and a file in colours of which every pixel is a grey
    holds numbers.
    Raises PictureError: what cannot be read whole; lossy formats; pixels that are transparent; colours of 16 bits, and
    colours where numbers are asked for.
    """
    header = read_header(path)
    if header.format not in EXACT:
        raise PictureError(
            f"{path}: is a {header.format}, which may blur classes into others; write masks as PNG"
        )
    if header.mode in NUMBERS and header.format != "GIF" and not by_colour:
        return _tiff_numbers(path) if header.format == "TIFF" else read_indices(path)
    if header.bits == 16:
        raise PictureError(f"{path}: has 16-bit {header.mode} values where colours are 8-bit; write it so")
    image = read_picture(path, 4).image
    if clear := int((image[..., 3] < 255).sum()):
        reason = f"{clear:,} of its pixels are transparent, so that their class is not sure"
        raise PictureError(f"{path}: {reason}; write it without alpha")
    if by_colour:
        codes = image[..., 0].astype(np.uint32)
        for channel in (1, 2):
            codes <<= 8
            codes |= image[..., channel]
        return codes
    if not ((image[..., 0] == image[..., 1]) & (image[..., 1] == image[..., 2])).all():
        raise InColours(
            f"{path}: is in colours, {_some_colours(image)}; write classes as numbers, or a table of the classes' "
            "colours (class_dict.csv: name,r,g,b)"
        )
    return np.ascontiguousarray(image[..., 0])


def _tiff_numbers(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        tags = next(tiff_directories(file), {})
    if 262 in tags and tags[262].value != 1:
        raise PictureError(f"{path}: is a TIFF that does not count from black; write a PNG")
    return np.ascontiguousarray(read_picture(path, 1, keep_depth=True).image[..., 0])


def _some_colours(image: np.ndarray) -> str:
    colours = np.unique(
        image[..., :3].reshape(-1, 3)[:: max(1, image.shape[0] * image.shape[1] // 10_000)], axis=0
    )
    shown = ", ".join(str(tuple(colour)) for colour in colours[-3:].tolist())
    return f"{shown} for instance"


def look(picture: Path, mask: Path, by_colour: bool = False) -> MaskSeen:
    """Read a picture's header and its whole mask.

    A mask whose size is the stored one of a picture that EXIF turns by a quarter was made without EXIF, and is turned
    with the picture.
    """
    try:
        header = read_header(picture)
    except PictureError as error:
        return MaskSeen(fault=str(error).removeprefix(f"{picture}: "))
    try:
        pixels = read_codes(mask, by_colour)
    except PictureError as error:
        return MaskSeen(
            fault=f"its mask {error}", form="colours" if isinstance(error, InColours) else "numbers"
        )
    frame = 1
    if pixels.shape != header.size:
        if pixels.shape != header.size[::-1] or header.orientation < 5:
            (height, width), (h, w) = pixels.shape, header.size
            reason = f"its mask {mask} is {width}x{height}, the picture {w}x{h}"
            return MaskSeen(
                fault=f"{reason}; put the picture's own mask there, resized by nearest neighbour only"
            )
        frame = header.orientation
    codes, counts = _histogram(pixels)
    if len(codes) > MOST:
        reason = f"its mask {mask} has {len(codes):,} different values"
        return MaskSeen(
            fault=f"{reason}; it is a picture, or was resized or compressed: write one value a class"
        )
    mixed, mixtures = (0.0, 0) if by_colour else in_between(pixels)
    if mixed >= BETWEEN and mixtures >= MIXTURES:
        reason = f"its mask {mask} has in-between values on {mixed:.0%} of the borders of its classes"
        return MaskSeen(
            fault=f"{reason}, as bilinear resizing makes them; resize masks by nearest neighbour only"
        )
    stored = read_header(mask)
    with_palette = stored.mode == "P" and stored.format != "GIF" and not by_colour
    colours = _palette(mask)[codes] if with_palette else np.zeros(0, np.int64)
    form: Literal["numbers", "greys"] = "numbers" if stored.mode in NUMBERS else "greys"
    return MaskSeen(codes, counts, colours, frame, mixed if mixed >= DOUBTFUL else 0.0, form)


def upright(pixels: np.ndarray, frame: int) -> np.ndarray:
    """A mask (h, w) turned with its picture; `frame` as in `MaskSeen`."""
    return pixels if frame == 1 else np.ascontiguousarray(orient(pixels, frame))


def _palette(path: Path) -> np.ndarray:
    """The colours 0xRRGGBB of a file's palette, (256,) int64, black where it has fewer."""
    with path.open("rb") as file, open_pillow(file, path.suffix, ("PNG",)) as image:
        entries = np.array(image.getpalette() or [], np.int64).reshape(-1, 3)
    colours = np.zeros(256, np.int64)
    colours[: len(entries)] = entries @ (1 << 16, 1 << 8, 1)
    return colours


def stripes(height: int, width: int) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of the rows of a mask, a few at a time: large masks' temporary arrays would fill the memory."""
    rows = max(1, STRIPE // max(width, 1))
    return ((start, min(start + rows, height)) for start in range(0, height, rows))


def _histogram(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, sorted, and how often: (k,) int64 both."""
    total: Counter[int] = Counter()
    for start, stop in stripes(*pixels.shape):
        codes, counts = _counted(pixels[start:stop])
        total.update(dict(zip(codes.tolist(), counts.tolist())))
    values = sorted(total)
    return np.array(values, np.int64), np.array([total[value] for value in values], np.int64)


def _counted(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if pixels.dtype == np.uint32:
        return np.unique(pixels, return_counts=True)
    counts = np.bincount(pixels.ravel())
    codes = np.flatnonzero(counts)
    return codes, counts[codes]


def in_between(pixels: np.ndarray) -> tuple[float, int]:
    """How far a mask (h, w) of numbers looks as if it had been resized by interpolation.

    Returns, of the places in rows and columns where the pixels before and after one differ, the share of those where it
    lies strictly between the two, and in how many different triples of values; 0, 0 where there are too few places
    (`EDGES`), or so many that the mask is noise.
    """
    edges = places = between = 0
    triples: set[int] = set()
    for start, stop in stripes(*pixels.shape):
        for plane in (pixels[start:stop], pixels[start : stop + 2].T):
            before, here, after = plane[:, :-2], plane[:, 1:-1], plane[:, 2:]
            edges += int(np.count_nonzero(before != after))
            places += before.size
            found = ((before < here) & (here < after)) | ((before > here) & (here > after))
            a, b, c = (each[found].astype(np.int64) for each in (before, here, after))
            between += len(b)
            triples |= set(np.unique(np.minimum(a, c) << 32 | b << 16 | np.maximum(a, c)).tolist())
    if edges < EDGES or 2 * edges > places:
        return 0.0, 0
    return between / edges, len(triples)
