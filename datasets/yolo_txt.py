"""One label file of YOLO: a line an object, its class and its box, outline or keypoints as parts of the picture."""

from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinue.datasets.targets import DataError

SLACK = 0.01
"""Coordinates may leave [0, 1] by so much; more means pixels instead of parts of the picture."""

MAX_BYTES = 8 << 20
"""Larger files are refused unread."""


class Line(NamedTuple):
    """One object, in parts of the picture. box: x1 y1 x2 y2; outline: x y x y ...; keypoints: (K, 3) float64."""

    label: int
    box: tuple[float, float, float, float]
    outline: list[float] | None
    keypoints: np.ndarray | None


class UnknownClass(DataError):
    """A class that the yaml does not have: the whole data set and its yaml do not belong together."""


def read_lines(file: Path, classes: Container[int], points: tuple[int, int] | None) -> list[Line]:
    """The objects of one label file. points: K, and 2 or 3 numbers each, where the data set has keypoints.

    A line is `class x y width height` (x, y is the centre), with K times x y [visibility] behind it where there are
    keypoints; or `class x1 y1 x2 y2 x3 y3 ...`, an outline, around which the box is drawn.
    Raises DataError with file:line, the value and a remedy; UnknownClass for a class that is not in `classes`.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); correct its rights") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is no text ({error}); write it again") from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{file}: is larger than {MAX_BYTES >> 20} MB; no picture has so many objects")
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if fields := line.split():
            lines.append(_line(f"{file}:{number}", fields, classes, points))
    return lines


def _line(at: str, fields: list[str], classes: Container[int], points: tuple[int, int] | None) -> Line:
    expected = 5 + points[0] * points[1] if points else 5
    outline = not points and len(fields) >= 7 and len(fields) % 2 == 1
    if len(fields) != expected and not outline:
        what = f"{expected} (class, box and kpt_shape {list(points)})" if points else "5 (class and box)"
        more = "" if points else ", or 7, 9, ... (class and outline)"
        hint = "; is the last one a confidence?" if len(fields) == 6 else ""
        raise DataError(f"{at}: {len(fields)} fields, not {what}{more}{hint}; correct the line")
    values = [_number(at, field) for field in fields]
    label = values[0]
    if not label.is_integer():
        raise DataError(f"{at}: class {fields[0][:40]!r} is no whole number; correct it")
    if int(label) not in classes:
        raise UnknownClass(
            f"{at}: class {fields[0][:40]} is not in the yaml; add its name there, or correct the line"
        )
    if outline:
        _inside(at, values[1:], fields[1:])
        xs, ys = values[1::2], values[2::2]
        return Line(int(label), (min(xs), min(ys), max(xs), max(ys)), values[1:], None)
    _inside(at, values[1:5], fields[1:5])
    x, y, width, height = values[1:5]
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Line(int(label), box, None, _keypoints(at, values[5:], points) if points else None)


def _number(at: str, field: str) -> float:
    try:
        value = float(field[:100])
    except ValueError:
        value = np.nan
    if not np.isfinite(value) or len(field) > 100:
        raise DataError(f"{at}: {field[:40]!r} is no number; correct it")
    return value


def _inside(at: str, values: list[float], fields: list[str]) -> None:
    for value, field in zip(values, fields):
        if not -SLACK <= value <= 1 + SLACK:
            raise DataError(
                f"{at}: {field[:40]} is not in [0, 1]; coordinates are parts of the picture's width and height"
            )


def _keypoints(at: str, values: list[float], points: tuple[int, int]) -> np.ndarray:
    """(K, 3) x, y, visibility. Without a visibility, points at 0, 0 or with negative coordinates are not there."""
    given = np.array(values, np.float64).reshape(points)
    seen = 2.0 * (given.any(1) & (given.min(1) >= 0)) if points[1] == 2 else given[:, 2]
    if not np.isin(seen, (0, 1, 2)).all():
        raise DataError(f"{at}: visibilities {seen.tolist()[:20]} are not all 0, 1 or 2; correct the line")
    place = given[:, :2] * (seen > 0)[:, None]
    _inside(at, place.ravel().tolist(), [f"{value:g}" for value in place.ravel()])
    return np.concatenate([place, seen[:, None]], 1)


def part(value: float) -> str:
    """A coordinate as text: 12 decimals, a millionth of a pixel in any picture, without the noise of arithmetic."""
    return repr(round(float(value), 12))
