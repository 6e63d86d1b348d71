"""One Pascal VOC annotation file: XML read without entities, and written."""

from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat
from xml.sax.saxutils import escape

from retinue.datasets.targets import DataError

MAX_BYTES = 4 << 20
"""Larger files are refused unread; a thousand objects take about 0.3 MB."""

MAX_DEPTH, MAX_ELEMENTS = 32, 200_000
"""Deeper trees and longer files are refused; VOC's own layout is 5 deep, and takes about 12 elements an object."""

LONG = 400
"""Longer names and numbers are refused."""

DEVKIT = "PASCAL VOC"
"""What `source/annotation` begins with in the official sets, and in what we write: the devkit's convention holds."""


class VocObject(NamedTuple):
    """One object. bounds: xmin, ymin, xmax, ymax as written; the rest as VOC defines them."""

    name: str
    bounds: tuple[str, str, str, str]
    difficult: bool
    truncated: bool
    pose: str


class VocPicture(NamedTuple):
    """One annotation file. size: (height, width), 0 where it is not stated; database, annotation: its source."""

    filename: str
    size: tuple[int, int]
    database: str
    annotation: str
    objects: list[VocObject]


def read_xml(path: Path) -> VocPicture:
    """Read one annotation file. Raises DataError with file, line where known, value and remedy.

    A document type is refused, and with it every entity; other elements than VOC's are passed over.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise DataError(f"{path}: the root element is <{root.tag[:40]}>, not <annotation>; is it Pascal VOC?")
    return VocPicture(
        filename=_text(root, "filename"),
        size=(_side(path, root, "height"), _side(path, root, "width")),
        database=_text(root, "source/database"),
        annotation=_text(root, "source/annotation"),
        objects=[_object(path, i, element) for i, element in enumerate(root.findall("object"), 1)],
    )


def _parse(path: Path) -> Element:
    """The element tree, by expat with its doors shut."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); correct the path or the rights"
        ) from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{path}: more than {MAX_BYTES >> 20} MB; no annotation of one picture is so large")
    builder, parser, depth, count = TreeBuilder(), expat.ParserCreate(), 0, 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        if depth > MAX_DEPTH or count > MAX_ELEMENTS:
            what = (
                f"elements nested deeper than {MAX_DEPTH}"
                if depth > MAX_DEPTH
                else f"over {MAX_ELEMENTS} elements"
            )
            raise DataError(
                f"{path}:{parser.CurrentLineNumber}: {what}; this is no annotation of one picture"
            )
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: object) -> None:
        raise DataError(
            f"{path}:{parser.CurrentLineNumber}: has a DOCTYPE, which may define entities; remove that line"
        )

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, doctype
    try:
        parser.Parse(data, True)
        return builder.close()
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError, AssertionError) as error:
        raise DataError(f"{path}: not readable as XML ({error}); correct or remove it") from None


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _side(path: Path, root: Element, name: str) -> int:
    text = _text(root, f"size/{name}")
    value = float(text or 0) if not text or _is_number(text) else -1.0
    if not 0 <= value < 2**31:
        raise DataError(f"{path}: the picture's {name} is {text[:60]!r}; write it in pixels, or leave it out")
    return int(value)


def _is_number(text: str) -> bool:
    """Whether it is one, NaN and infinities included: what they do to a box is told with the other odd boxes."""
    try:
        float(text[: LONG + 1])
    except ValueError:
        return False
    return len(text) <= LONG


def _object(path: Path, number: int, element: Element) -> VocObject:
    name, box = _text(element, "name"), element.find("bndbox")
    if not 0 < len(name) <= LONG or not name.isprintable():
        raise DataError(f"{path}: the name of object {number} is {name[:60]!r}; write a class name")
    if box is None:
        raise DataError(f"{path}: object {number} ({name}) has no <bndbox>; add it, or remove the object")
    xmin, ymin, xmax, ymax = (_text(box, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    for text in (xmin, ymin, xmax, ymax):
        if not _is_number(text):
            what = f"{path}: object {number} ({name}) has the coordinate {text[:60]!r}"
            raise DataError(f"{what}; write a number, or remove it")
    flags = [_flag(path, number, element, flag) for flag in ("difficult", "truncated")]
    pose = " ".join(_text(element, "pose").split())
    pose = pose if pose.isprintable() and len(pose) <= 100 else ""
    return VocObject(name, (xmin, ymin, xmax, ymax), flags[0], flags[1], pose)


def _flag(path: Path, number: int, element: Element, name: str) -> bool:
    text = _text(element, name).lower()
    if text not in ("", "0", "1", "true", "false"):
        raise DataError(f"{path}: {name} of object {number} is {text[:60]!r}; write 0 or 1")
    return text in ("1", "true")


def corners(bounds: tuple[str, str, str, str], first: int) -> list[float]:
    """x1 y1 x2 y2 in [0, width] from xmin, ymin, xmax, ymax. first: the index of the first pixel, 1 in the devkit.

    The devkit names the first and the last pixel of the object, counting from 1 (VOC2012 development kit, section
    "annotation"): pixel i spans [i - 1, i], so that xmin loses 1 and xmax does not. first=0: corners as they stand.
    """
    x1, y1, x2, y2 = bounds
    return [_minus(x1, first), _minus(y1, first), float(x2), float(y2)]


def _minus(text: str, first: int) -> float:
    """Exact in decimal, so that what `plus` wrote is read as it was."""
    value = float(text)
    return float(Decimal(text) - first) if isfinite(value) and not value.is_integer() else value - first


def plus(value: float, first: int) -> str:
    """The shortest text of value + first that reads back as `value`."""
    value = float(value)
    return str(int(value) + first) if value.is_integer() else f"{Decimal(repr(value)) + first:f}"


def write_xml(path: Path, picture: VocPicture) -> None:
    """Write one annotation file, in the devkit's layout and order. Raises DataError for what XML cannot hold."""
    height, width = picture.size
    lines = [
        "<annotation>",
        f"  <filename>{_escaped(path, picture.filename)}</filename>",
        f"  <source><database>{_escaped(path, picture.database)}</database>"
        f"<annotation>{_escaped(path, picture.annotation)}</annotation></source>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for name, bounds, difficult, truncated, pose in picture.objects:
        box = "".join(
            f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True)
        )
        lines += [
            "  <object>",
            f"    <name>{_escaped(path, name)}</name>",
            f"    <pose>{_escaped(path, pose or 'Unspecified')}</pose>",
            f"    <truncated>{int(truncated)}</truncated>",
            f"    <difficult>{int(difficult)}</difficult>",
            f"    <bndbox>{box}</bndbox>",
            "  </object>",
        ]
    path.write_text("\n".join([*lines, "</annotation>", ""]), encoding="utf-8")


def _escaped(path: Path, text: str) -> str:
    if text != text.strip() or not text.isprintable() or any("\ud800" <= c <= "\udfff" for c in text):
        raise DataError(f"{path}: {text!r} cannot stand in XML; rename it")
    return escape(text)
