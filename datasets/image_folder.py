"""Image folder: <root>/<split>/<class>/picture, or <root>/<class>/picture without splits."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from retinue.datasets.labelled import LabelledPictures
from retinue.datasets.picture_files import HELD_OUT, SPLITS, as_bytes, held_out
from retinue.datasets.pictures import IMAGE_SUFFIXES
from retinue.datasets.scan import usable
from retinue.datasets.targets import ClassMap, DataError

IGNORED = ("thumbs.db", "desktop.ini", "__macosx", "@eadir")

NO_CLASS = re.compile(
    r"(jpeg|png)?images?|imgs?|labels?|masks?|[a-z]+masks|annot\w*|gt|gtfine|ground_?truth|depth|segment\w*|imagesets|"
    r"(train|val|test)20\d\d|leftimg8bit"
)
"""Folder names (lower case) of formats in which a folder is not a class."""


class ImageFolder(LabelledPictures):
    """The pictures of one split, labelled by the folder that they are in, at any depth below it.

    split: "train", "val" or "test" as `SPLITS` knows them; where the root has no such folders, "all", or "train"
    and "val" as `held_out` divides it. classes: the names that may occur (default: the folders here, sorted).
    strict: look at every picture now, and raise DataError naming all that cannot be read.
    Symbolic links are followed. Raises DataError: no such split, an empty class folder, an unknown class.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        classes: ClassMap | Sequence[str] | None = None,
        strict: bool = False,
        channels: int = 3,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise DataError(
                f"{root}: there is no such folder; correct the path ({root.absolute()} was tried)"
            )
        folder = _split_folder(root, split)
        found = _class_folders(folder)
        if classes is None:
            classes = [name for name, _ in found]
        if not isinstance(classes, ClassMap):
            classes = ClassMap(tuple(classes), tuple(classes))
        if unknown := [name for name, _ in found if name not in classes.ids]:
            raise DataError(
                f"{folder}: the class folders {unknown} are not among the known classes {list(classes.ids)}; "
                "rename or remove them, or add them to the training data"
            )
        paths, labels, others = _list_pictures(root, found, classes)
        without_splits = folder == root and split != "all"
        if without_splits:
            held = held_out(as_bytes(paths), np.array(labels))
            kept = np.flatnonzero(held == (split == "val"))
            paths, labels = [paths[i] for i in kept], [labels[i] for i in kept]
            if not paths:
                raise DataError(f"{root}: too few pictures to hold any out; add some, or a folder val/")
        super().__init__(root, split, paths, labels, classes, channels)
        self.remarks += _remarks(folder, others) + [HELD_OUT] * without_splits
        if strict:
            usable(self, strict=True)


def splits(source: str) -> dict[str, LabelledPictures]:
    """The splits of an image folder; {} where the folder does not look like one.

    Folders that pair pictures with masks, labels and so on are not image folders: `NO_CLASS`.
    """
    root = Path(source)
    if not root.is_dir():
        return {}
    names = list(split_folders(root))
    folders = [_split_folder(root, name) for name in names] or [root]
    inside = [[folder.name for folder in _folders(folder)] for folder in folders]
    if any(NO_CLASS.fullmatch(name.lower()) for found in inside for name in found):
        return {}
    if not all(any(_has_picture(folder / name) for name in found) for folder, found in zip(folders, inside)):
        return {}
    if not names and len(inside[0]) < 2:
        return {}
    names = names or ["train", "val"]
    first = ImageFolder(root, names[0])
    return {names[0]: first, **{name: ImageFolder(root, name, first.classes) for name in names[1:]}}


def split_folders(root: Path) -> dict[str, Path]:
    """The folders that are splits: "train", "val", "test" in this order -> folder. DataError for two of a kind."""
    found: dict[str, Path] = {}
    for folder in _folders(root):
        name = SPLITS.get(folder.name.lower())
        if name in found:
            raise DataError(f"{found[name]} and {folder} are both {name}; remove or rename one of them")
        if name:
            found[name] = folder
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _split_folder(root: Path, split: str) -> Path:
    folders = split_folders(root)
    if not folders and split in ("all", "train", "val"):
        return root
    if (name := SPLITS.get(split.lower(), split)) in folders:
        return folders[name]
    there = [str(folder.name) for folder in folders.values()] or "none"
    raise DataError(f"{root}: no split {split!r}; the split folders there are: {there}")


def _folders(folder: Path) -> list[Path]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    return [folder / name for name in names if not _hidden(name)]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _class_folders(folder: Path) -> list[tuple[str, Path]]:
    found = [(each.name, each) for each in _folders(folder)]
    if not found:
        raise DataError(f"{folder}: no class folders in it; one folder a class is needed, with its pictures")
    return found


def _walk(folder: Path) -> Iterator[tuple[str, str]]:
    """(folder, file name) of every file below a folder that is not hidden; links are followed, never in circles."""
    seen = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(where)
        folders[:] = sorted(name for name in folders if not _hidden(name)) if place not in seen else []
        if place not in seen:
            yield from ((where, name) for name in sorted(files) if not _hidden(name))
        seen.add(place)


def pictures_below(folder: Path) -> list[Path]:
    """Every picture file below a folder, by its suffix; hidden ones are left out."""
    return [Path(where, name) for where, name in _walk(folder) if _is_picture(name)]


def _has_picture(folder: Path) -> bool:
    return any(_is_picture(name) for _, name in _walk(folder))


def _list_pictures(
    root: Path, folders: list[tuple[str, Path]], classes: ClassMap
) -> tuple[list[str], list[int], Counter[str]]:
    """Relative paths, labels, and the suffixes of the files that are not pictures."""
    paths: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for name, folder in folders:
        before = len(paths)
        for where, file in _walk(folder):
            if _is_picture(file):
                paths.append(Path(where, file).relative_to(root).as_posix())
            else:
                others[os.path.splitext(file)[1].lower() or file] += 1
        if len(paths) == before:
            raise DataError(f"{folder}: class {name!r} has no pictures; put some in, or remove the folder")
        labels += [classes.index(name)] * (len(paths) - before)
    return paths, labels, others


def _remarks(folder: Path, others: Counter[str]) -> list[str]:
    remarks = []
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        remarks.append(f"{others.total()} files that are no pictures by their suffix are ignored: {kinds}")
    if loose := sum(_is_picture(entry.name) for entry in os.scandir(folder) if entry.is_file()):
        remarks.append(f"{loose} pictures lie in {folder}, outside any class folder: not used")
    return remarks
