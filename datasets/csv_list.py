"""CSV list: a file with the columns image and label, and perhaps split; or train.csv, val.csv, test.csv."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retinue.datasets.labelled import LabelledPictures, class_map
from retinue.datasets.picture_files import HELD_OUT, SPLITS, as_bytes, held_out
from retinue.datasets.scan import usable
from retinue.datasets.targets import ClassMap, DataError

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "image_path", "img")
LABEL_COLUMNS = ("label", "class", "category", "target", "class_name")
SPLIT_COLUMNS = ("split", "subset")
BOX_COLUMNS = {"xmin", "x1", "xmax", "x2", "bbox", "bbox_x", "left"}
"""Columns of a detection list, which is not this format."""


class Row(NamedTuple):
    """One line: the picture's path relative to the CSV's folder, its label and split as written."""

    line: int
    path: str
    label: str
    split: str


class CsvList(LabelledPictures):
    """The pictures that a CSV file names for one split.

    split: "all", or one of the values in the split column (as `SPLITS` knows them), or, where there is no such
    column, "train" and "val" as `held_out` divides it. classes: those that may occur (default: all in the file).
    strict: look at every picture now, and raise DataError naming all that cannot be read.
    Raises DataError, with file:line and value: malformed lines, empty labels, unknown classes, paths that are
    absolute or leave the CSV's folder, pictures named twice. Files that do not exist are `skipped`.
    """

    def __init__(
        self,
        file: str | Path,
        split: str = "all",
        classes: ClassMap | Sequence[str] | None = None,
        strict: bool = False,
        channels: int = 3,
    ) -> None:
        file = Path(file)
        rows = list(read_rows(file))
        if classes is None:
            classes = class_map({row.label for row in rows})
        if not isinstance(classes, ClassMap):
            classes = ClassMap(tuple(classes), tuple(classes))
        rows = _rows_of(file, rows, split)
        missing = [row for row in rows if not (file.parent / row.path).is_file()]
        if missing and (strict or len(missing) == len(rows)):
            tried = [str((file.parent / row.path).absolute()) for row in missing[:10]]
            raise DataError(
                f"{file}: {len(missing)} of {len(rows)} pictures do not exist; paths are relative to the "
                f"CSV's folder; tried {tried}"
            )
        rows = [row for row in rows if row not in set(missing)] if missing else rows
        super().__init__(
            file.parent, split, [row.path for row in rows], _labels(file, rows, classes), classes, channels
        )
        if split != "all" and not rows[0].split:
            self.remarks.append(HELD_OUT)
        self.skipped += [(file.parent / row.path, "there is no such file") for row in missing]
        if strict:
            usable(self, strict=True)


def splits(source: str) -> dict[str, LabelledPictures]:
    """The splits of a CSV file, or of a folder with CSV files; {} where there is none with our columns."""
    path = Path(source)
    if path.is_dir():
        return _folder_splits(path)
    if path.suffix.lower() != ".csv" or not path.is_file() or not _is_ours(path):
        return {}
    rows = list(read_rows(path))
    names = {row.split for row in rows} - {""} or {"train", "val"}
    labels = {row.label for row in rows if row.split in ("train", "")} or {row.label for row in rows}
    return {
        name: CsvList(path, name, class_map(labels)) for name in ("train", "val", "test") if name in names
    }


def _folder_splits(folder: Path) -> dict[str, LabelledPictures]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".csv" and file.is_file())
    named: dict[str, Path] = {}
    for file in files:
        name = SPLITS.get(file.stem.lower())
        if name in named:
            raise DataError(f"{named[name]} and {file} are both {name}; remove or rename one of them")
        if name and _is_ours(file):
            named[name] = file
    if not named:
        ours = [file for file in files if _is_ours(file)]
        return splits(str(ours[0])) if len(ours) == 1 else {}
    parts: dict[str, LabelledPictures] = {}
    for name in ("train", "val", "test"):
        if name in named:
            classes = next(iter(parts.values())).classes if parts else None
            parts[name] = CsvList(named[name], "all", classes)
            parts[name].split = name
    return parts


def _is_ours(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.readline(10_000).decode("utf-8-sig").lower()
    except (OSError, UnicodeDecodeError):
        return False
    names = {name.strip().strip('"') for name in head.replace(";", ",").replace("\t", ",").split(",")}
    return bool(names & set(IMAGE_COLUMNS) and names & set(LABEL_COLUMNS) and not names & BOX_COLUMNS)


def read_rows(file: Path) -> Iterator[Row]:
    """The lines of a CSV list, checked one by one. Raises DataError with file:line, value and remedy."""
    if not file.is_file():
        raise DataError(f"{file}: there is no such file; correct the path ({file.absolute()} was tried)")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error}); save it as UTF-8") from None
    delimiter = max(",;\t", key=text[:10_000].partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        yield from _checked(file, reader)
    except csv.Error as error:
        raise DataError(
            f"{file}:{reader.line_num}: not readable as CSV ({error}); correct the line"
        ) from None


def _checked(file: Path, reader: Any) -> Iterator[Row]:
    header: list[str] = next(reader, [])
    image, label, split = _columns(file, header)
    inside: dict[str, bool] = {}
    first: dict[str, int] = {}
    for fields in reader:
        at = f"{file}:{reader.line_num}"
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{at}: {len(fields)} fields, the header has {len(header)}: {fields}; correct the line"
            )
        path = _safe_path(at, file.parent, fields[image].strip(), inside)
        if (before := first.setdefault(path, reader.line_num)) != reader.line_num:
            raise DataError(f"{at}: {path!r} was named in line {before} already; remove one of the two")
        name = fields[label].strip()
        if not name or name.lower() == "nan":
            raise DataError(f"{at}: the label of {path!r} is {fields[label]!r}; write a class name")
        yield Row(reader.line_num, path, name, _split(at, fields[split]) if split is not None else "")
    if not first:
        raise DataError(f"{file}: names no pictures; add lines below the header {header}")


def _columns(file: Path, header: list[str]) -> tuple[int, int, int | None]:
    """Where the image, the label and perhaps the split stand."""
    names = [name.strip().lower() for name in header]
    places = []
    for what, known in (("image", IMAGE_COLUMNS), ("label", LABEL_COLUMNS), ("split", SPLIT_COLUMNS)):
        found = [i for i, name in enumerate(names) if name in known]
        if len(found) > 1 or (not found and what != "split"):
            raise DataError(
                f"{file}:1: {len(found)} {what} columns in the header {header}; exactly one of {list(known)} is needed"
            )
        places.append(found[0] if found else None)
    image, label, split = places
    assert image is not None and label is not None
    return image, label, split


def _split(at: str, value: str) -> str:
    name = SPLITS.get(value.strip().lower())
    if name is None:
        raise DataError(f"{at}: {value!r} is no split; write one of {list(SPLITS)}")
    return name


def _safe_path(at: str, root: Path, text: str, inside: dict[str, bool]) -> str:
    """The path relative to the root with "/". DataError where it, or a link in it, leaves the root."""
    if not text or not text.isprintable():
        raise DataError(f"{at}: {text!r} is not a path; name a picture file")
    path = os.path.normpath(os.path.join(root, text))
    relative = os.path.relpath(path, root)
    folder, top = os.path.dirname(path), os.path.realpath(root)
    if folder not in inside:
        inside[folder] = _is_inside(folder, top)
    if relative == "." or not inside[folder] or (os.path.islink(path) and not _is_inside(path, top)):
        raise DataError(f"{at}: {text!r} leads outside {root}; only files in the CSV's own folder are read")
    return Path(relative).as_posix()


def _is_inside(path: str, top: str) -> bool:
    real = os.path.realpath(path)
    return real == top or real.startswith(top.rstrip(os.sep) + os.sep)


def _rows_of(file: Path, rows: list[Row], split: str) -> list[Row]:
    """The rows of one split; by hash where the file has no splits of its own."""
    name = SPLITS.get(split.lower(), split)
    if split != "all" and any(row.split for row in rows):
        rows = [row for row in rows if row.split == name]
    elif split != "all":
        labels = np.unique([row.label for row in rows], return_inverse=True)[1]
        val = held_out(as_bytes([row.path for row in rows]), labels)
        rows = [row for row, held in zip(rows, val) if name == ("val" if held else "train")]
    if not rows:
        raise DataError(f"{file}: no line of split {split!r}; add some, or ask for another split")
    return rows


def _labels(file: Path, rows: list[Row], classes: ClassMap) -> list[int]:
    index = {str(id): i for i, id in enumerate(classes.ids)}
    for row in rows:
        if row.label not in index:
            raise DataError(
                f"{file}:{row.line}: class {row.label!r} of {row.path!r} is not among the known classes "
                f"{list(classes.ids)}; correct it, or add it to the training data"
            )
    return [index[row.label] for row in rows]
