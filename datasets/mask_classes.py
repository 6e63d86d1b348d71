"""What the values in masks mean: by the option `values=`, by a file of classes, or by the values themselves."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinue.datasets.targets import IGNORE, ClassMap, DataError

FILES = (
    "classes.txt", "class_names.txt", "codes.txt", "class_dict.csv", "label_colors.txt", "label_colours.txt",
    "labelmap.txt",
)  # fmt: skip
"""What a file of classes in a data set's folder is called; the first that is there counts."""

IGNORED = ("ignore", "void")
"""Class names (lower case) whose pixels do not count."""

UNKNOWN = -1
"""The index of a code that means nothing."""

HIGHEST = 65535
"""The largest number in a mask."""


class Entries(NamedTuple):
    """What somebody said of masks: (code, name) in the order of the classes, numbers or colours 0xRRGGBB; and where."""

    codes: list[tuple[int, str]]
    by_colour: bool
    source: str

    def numbered(self) -> "Entries":
        """The same names for the numbers from 0."""
        return Entries([(line, name) for line, (_, name) in enumerate(self.codes)], False, self.source)

    def has(self, code: int) -> bool:
        """Whether this code is among them."""
        return any(each == code for each, _ in self.codes)


@dataclass(frozen=True)
class MaskClasses:
    """How masks write classes.

    classes: their ids are the numbers in the files (of several for one class the first), or names where masks are in
    colours. codes: (k,) int64, sorted, the numbers or colours 0xRRGGBB. labels: (k,) uint8, the class index of each, or
    `IGNORE`. source: who says so, for messages.
    """

    classes: ClassMap
    codes: np.ndarray
    labels: np.ndarray
    by_colour: bool
    source: str

    @classmethod
    def of(cls, entries: Entries) -> "MaskClasses":
        """Names in `IGNORED` are no classes; the number 255 is ignored where nothing else is said of it.

        Raises DataError: a code under two names, no class, more than 255.
        """
        by_colour, source = entries.by_colour, entries.source
        names = list(dict.fromkeys(name for _, name in entries.codes if name.lower() not in IGNORED))
        if not 0 < len(names) <= IGNORE:
            raise DataError(f"{source}: has {len(names)} classes; name at least one, and at most {IGNORE}")
        told: dict[int, str] = {}
        ids: dict[str, int] = {}
        for code, name in entries.codes:
            if told.setdefault(code, name) != name:
                both = f"{told[code]!r} and {name!r}"
                raise DataError(f"{source}: {shown(code, by_colour)} is {both}; remove one of them")
            ids.setdefault(name, code)
        index = {name: i for i, name in enumerate(names)}
        labels = {code: index.get(name, IGNORE) for code, name in told.items()}
        labels = labels if by_colour else {IGNORE: IGNORE, **labels}
        codes = np.array(sorted(labels), np.int64)
        classes = ClassMap(tuple(names), tuple(names if by_colour else (ids[name] for name in names)))
        return cls(
            classes, codes, np.array([labels[code] for code in codes.tolist()], np.uint8), by_colour, source
        )

    @classmethod
    def of_numbers(cls, numbers: Iterable[int]) -> "MaskClasses":
        """Each number that occurs is a class, and called as it is written; 255 is ignored."""
        entries = [(number, str(number)) for number in sorted(set(numbers) - {IGNORE})]
        return cls.of(Entries(entries, False, "the masks themselves"))

    def index(self, codes: np.ndarray) -> np.ndarray:
        """Class index, `IGNORE`, or `UNKNOWN`, int64, of each code (...)."""
        if not self.by_colour:
            return self._table[codes]
        places = np.minimum(np.searchsorted(self.codes, codes), len(self.codes) - 1)
        return np.where(self.codes[places] == codes, self.labels[places].astype(np.int64), UNKNOWN)

    @cached_property
    def _table(self) -> np.ndarray:
        """What `index` gives for each number; looking up is ten times as fast as searching."""
        table = np.full(HIGHEST + 1, UNKNOWN, np.int64)
        table[self.codes] = self.labels
        return table

    def known(self, codes: np.ndarray) -> np.ndarray:
        """Which codes (...) mean something, bool of the same shape."""
        return self.index(codes) != UNKNOWN

    def unknown(self, code: int, count: int) -> str:
        """A code that means nothing and its number of pixels, in words; of a colour, which is the nearest that does."""
        text = f"{shown(code, self.by_colour)} ({count:,} pixels)"
        if not self.by_colour:
            return text
        apart = np.abs(_channels(self.codes) - _channels(np.array([code]))).max(1)
        place = int(apart.argmin())
        label = int(self.labels[place])
        name = self.classes.names[label] if label < len(self.classes) else IGNORED[0]
        return f"{text[:-1]}; the nearest is {shown(int(self.codes[place]), True)}, {name})"

    def with_classes(self, classes: ClassMap) -> "MaskClasses":
        """With the class indices of another map, matched by name; what the other map lacks is ignored."""
        index = [
            classes.names.index(name) if name in classes.names else IGNORE for name in self.classes.names
        ]
        table = np.full(IGNORE + 1, IGNORE, np.uint8)
        table[: len(index)] = index
        return replace(self, classes=classes, labels=table[self.labels])


def shown(code: int, by_colour: bool) -> str:
    """A code as people write it: 7, or (128, 0, 0)."""
    return str(tuple(_channels(np.array([code]))[0].tolist())) if by_colour else str(code)


def _channels(codes: np.ndarray) -> np.ndarray:
    """Colours (k,) 0xRRGGBB -> (k, 3) int64."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], -1)


# What people write


def stated(root: Path, values: str | None) -> Entries | None:
    """What is said of the masks below a folder: by the option `values=`, else by one of `FILES` in it; else None."""
    if values is None:
        files = [root / name for name in FILES if (root / name).is_file()]
        return read_entries(files[0]) if files else None
    if os.path.isfile(
        file := os.path.expanduser(values)
    ):  # `Path.is_file` raises for a name that is too long
        return read_entries(Path(file))
    items = [item.strip() for item in values.split(",")]
    if not all(_NUMBER.fullmatch(item) and ":" in item for item in items):
        raise DataError(
            f"values={values}: neither a file nor a list of VALUE:NAME; write values=0:background,255:object, with "
            "ignore as the name of what does not count"
        )
    return _entries([(f"values={values}", item) for item in items], f"values={values}")


def read_entries(file: Path) -> Entries:
    """A file of classes: lines NAME, numbered from 0; or VALUE NAME (or VALUE:NAME); or colours, as R G B NAME, as
    NAME,R,G,B, or as CVAT's NAME:R,G,B:parts:actions.

    Raises DataError with file:line where a line is none of these, or of another kind than those before it.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}); save it so") from None
    lines = [(f"{file}:{i}", line.strip()) for i, line in enumerate(text.rstrip().splitlines(), 1)]
    lines = [(at, line) for at, line in lines if not line.startswith("#")]
    if lines and _HEADER.fullmatch(lines[0][1]):
        lines = lines[1:]
    return _entries(lines, str(file))


COLOURS, VALUES, ALONE = "colours and names", "values and names", "names alone"
"""What the lines of a file of classes may give."""

_NUMBER = re.compile(r"(?P<value>\d{1,9})\s*[\s:,;]\s*(?P<name>[^\s,:;].*)")
_COLOUR = re.compile(r"(?P<r>\d{1,3})[\s,;]+(?P<g>\d{1,3})[\s,;]+(?P<b>\d{1,3})[\s,;]+(?P<name>\S.*)")
_NAMED = re.compile(
    r"(?P<name>[^,;\t]*[^,;\t\s])\s*[,;\t]\s*(?P<r>\d{1,3})\s*[,;\t]\s*(?P<g>\d{1,3})\s*[,;\t]\s*(?P<b>\d{1,3})"
)
_CVAT = re.compile(
    r"(?P<name>[^:]*[^:\s])\s*:\s*(?P<r>\d{1,3})\s*,\s*(?P<g>\d{1,3})\s*,\s*(?P<b>\d{1,3})\s*:.*"
)
_HEADER = re.compile(r"\W*(name|class|label)[\w ]*\W+(r|red)\W+(g|green)\W+(b|blue)\W*", re.IGNORECASE)


def _entries(lines: list[tuple[str, str]], source: str) -> Entries:
    """lines: (where, text)."""
    found: list[tuple[int, str]] = []
    kinds: dict[str, str] = {}
    blank = ""
    for at, line in lines:
        if not line:
            blank = at
            continue
        kind, code, name = _entry(at, line, len(found))
        kinds.setdefault(kind, at)
        if len(kinds) > 1:
            (one, first), (other, second) = kinds.items()
            raise DataError(
                f"{second}: {line!r} gives {other}, but {first} gives {one}; write all lines alike"
            )
        found.append((code, name))
    if not found:
        raise DataError(f"{source}: names no classes; write a line for each")
    if blank and ALONE in kinds:
        raise DataError(
            f"{blank}: an empty line, where lines are counted; write a name, or VALUE NAME in every line"
        )
    return Entries(found, COLOURS in kinds, source)


def _entry(at: str, line: str, number: int) -> tuple[str, int, str]:
    """What a line gives, its code and its name."""
    for pattern in (_COLOUR, _NAMED, _CVAT):
        if match := pattern.fullmatch(line):
            r, g, b = (int(match[channel]) for channel in "rgb")
            if max(r, g, b) > 255:
                raise DataError(f"{at}: {line!r} has {max(r, g, b)} in a colour; colours are from 0 to 255")
            return COLOURS, r << 16 | g << 8 | b, match["name"].strip()
    if match := _NUMBER.fullmatch(line):
        if int(match["value"]) > HIGHEST:
            raise DataError(f"{at}: {line!r} has the value {match['value']}; masks hold 0 to {HIGHEST}")
        return VALUES, int(match["value"]), match["name"].strip()
    if not line.isprintable() or line.isdecimal():
        raise DataError(f"{at}: {line!r} is no class; write its name")
    return ALONE, number, line
