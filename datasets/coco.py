"""COCO json: annotations/instances_train2017.json and pictures, train/_annotations.coco.json, or one json file."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from retinue.datasets.coco_json import CocoJson, read_coco
from retinue.datasets.objects import ObjectPictures, divided
from retinue.datasets.picture_files import SPLITS, as_bytes
from retinue.datasets.targets import DataError

SPLIT = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test|testing)(\d{4})?(?![a-z])")
"""A split in a file name, with the year that COCO adds."""

OTHER_KINDS = ("captions", "panoptic", "stuff", "image_info", "person_keypoints")
"""What else COCO's annotation folder holds: the first words of file names that a folder alone does not mean."""

ANNOTATIONS = ("annotations", "annotation", "labels", "json")
"""Folders (lower case) beside which pictures lie."""

PICTURES = ("images", "Images", "JPEGImages", "imgs")
"""Where pictures lie beside the annotations, if not in a folder that is called like the split."""

FEW = 100
"""A folder with more json files holds one a picture, which is another format."""


class CocoPictures(ObjectPictures):
    """The pictures and objects of one COCO json file."""


def splits(source: str) -> dict[str, CocoPictures]:
    """The splits of a COCO data set; {} where the source is none.

    A folder is looked through for json files in annotations/, in itself, and in its split folders; of several for one
    split the instances are taken, and of several that are left one must be named. A json file stands for itself; a
    training file brings its siblings for val and test with it. So keypoints are had by naming
    annotations/person_keypoints_train2017.json. Pictures are looked for by their file_name beside the json file and
    in the folders around it that are called like the split or like `PICTURES`; those not found are `skipped`. Nothing
    outside the data set's folder is read.
    Raises DataError: unusable json, several for one split, no picture found (with the folders tried).
    """
    path = Path(source)
    if path.is_dir():
        return _data_sets(path, _choices(path))
    if path.suffix.lower() != ".json" or not path.is_file() or not _is_coco(path):
        return {}
    name = _split_name(path)
    outer = path.parent.name.lower()
    by_folder = not _split_of(path.stem) and SPLIT.fullmatch(outer)
    root = path.parent.parent if by_folder or outer in ANNOTATIONS else path.parent
    family = _siblings(path) if name == "train" else {}
    return _data_sets(root, {**family, name or "all": path})


def _data_sets(root: Path, files: dict[str, Path]) -> dict[str, CocoPictures]:
    found: dict[str, CocoPictures] = {}
    for name, file in files.items():
        part = _pictures(root, name, read_coco(file))
        first = next(iter(found.values()), part)
        found[name] = part if part.classes == first.classes else part.with_classes(first.classes)
    return divided(found["all"]) if list(found) == ["all"] else found


def _choices(root: Path) -> dict[str, Path]:
    """Split -> its json file, "all" where there is one file that names no split."""
    inner = sorted(entry for entry in os.listdir(root) if entry.lower() in (*ANNOTATIONS, *SPLITS))
    folders = [root, *(root / name for name in inner)]
    inside = [sorted(folder.glob("*.json")) for folder in folders if folder.is_dir()]
    files = list({os.path.realpath(file): file for few in inside if len(few) <= FEW for file in few}.values())
    files = [file for file in files if _is_coco(file)]
    found: dict[str, list[Path]] = {}
    for file in [file for file in files if not file.name.startswith(OTHER_KINDS)] or files:
        found.setdefault(_split_name(file) or "all", []).append(file)
    if len(found) > 1:
        found.pop("all", None)  # a whole beside its parts
    for name, several in found.items():
        if len(several) > 1:
            names = [str(file.relative_to(root)) for file in several]
            raise DataError(
                f"{root}: {len(several)} json files for the split {name}: {names}; name one of them as data"
            )
    order = ("train", "val", "test", "all")
    return {name: found[name][0] for name in order if name in found}


def _is_coco(file: Path) -> bool:
    """Whether the file looks like COCO's object of lists, judged by its words without parsing it."""
    words = {b'"images"', b'"annotations"', b'"categories"'}
    try:
        with file.open("rb") as stream:
            start = stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not start.startswith(b"{"):
                return False
            rest = b""
            while words and start:
                rest = rest[-20:] + start
                words = {word for word in words if word not in rest}
                start = stream.read(2**22)
    except OSError:
        return False
    return not words


def _split_of(text: str) -> str | None:
    found = SPLIT.search(text.lower())
    return SPLITS[found[1]] if found else None


def _split_name(file: Path) -> str | None:
    """The split that a json file is for, by its name or by its folder's."""
    return _split_of(file.stem) or SPLITS.get(file.parent.name.lower())


def _siblings(file: Path) -> dict[str, Path]:
    """The files for the other splits whose names differ from this one's in the split only."""
    place = file if _split_of(file.stem) else file.parent
    family = SPLIT.sub("*", place.stem.lower())
    found: dict[str, Path] = {}
    for other in sorted(place.parent.iterdir()):
        name = _split_of(other.stem)
        beside = other if place == file else other / file.name
        if name and SPLIT.sub("*", other.stem.lower()) == family and beside.suffix == file.suffix:
            if name in found and name != "train":
                raise DataError(f"{found[name]} and {beside} are both {name}; remove or rename one of them")
            if beside.is_file():
                found[name] = beside
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _pictures(root: Path, split: str, read: CocoJson) -> CocoPictures:
    """The pictures of one file, with the paths where they were found."""
    names = [os.fsdecode(bytes(name)) for name in read.annotations.paths]
    folders = list(_folders(root, read.file))
    paths: list[str] = []
    seen: set[str] = set()
    missing: list[tuple[Path, str]] = []
    kept = np.zeros(len(names), bool)
    for i, name in enumerate(names):
        place, reason = _find(root, folders, name)
        if place is None:
            missing.append((read.file.parent / name, reason))
            continue
        if place in seen:
            missing.append((root / place, f"{read.file.name} lists it twice; remove one"))
            continue
        kept[i] = True
        seen.add(place)
        paths.append(place)
    if not paths:
        raise DataError(
            f"{read.file}: none of its {len(names)} pictures can be used; {missing[0][0].name}: {missing[0][1]}"
        )
    annotations = replace(read.annotations.select(kept), paths=as_bytes(paths))
    data = CocoPictures(root, split, annotations, read.classes, found=read.problems, skipped=missing)
    if read.problems:
        data.remarks.append(
            f"{len(read.problems)} entries of {read.file.name} left out; retinue check names them"
        )
    if read.file.name.startswith("instances") and _keypoints_of(read.file).is_file():
        data.remarks.append(f"instances are read; for keypoints name {_keypoints_of(read.file)} as data")
    return data


def _keypoints_of(file: Path) -> Path:
    return file.with_name(file.name.replace("instances", "person_keypoints", 1))


def _folders(root: Path, file: Path) -> Iterator[Path]:
    """Where pictures of a json file may lie, the likeliest first."""
    split = SPLIT.search(file.stem.lower())
    names = [split[0], split[1]] if split else []
    names += [other for other, ours in SPLITS.items() if split and ours == SPLITS[split[1]]]
    seen: set[Path] = set()
    for base in (file.parent, root):
        inner = [base / name for name in PICTURES]
        for folder in (base, *inner, *(place / name for name in names for place in (base, *inner))):
            if folder not in seen and folder.is_dir():
                yield folder
            seen.add(folder)
        for name in names:
            yield from (place for inside in PICTURES if (place := base / name / inside).is_dir())


def _find(root: Path, folders: list[Path], name: str) -> tuple[str | None, str]:
    """The picture's path relative to the root, or why there is none. The folder that had it moves to the front."""
    name = os.path.normpath(name.replace("\\", "/"))
    if os.path.isabs(name) or name == ".." or name.startswith("../"):
        return None, f"{name!r} leads outside {root}; only files in the data set's folder are read"
    for i, folder in enumerate(folders):
        path = folder / name
        if os.path.isfile(path):  # `path.is_file()` raises for a name that is too long
            by_link = "/" in name or path.is_symlink()
            if by_link and not os.path.realpath(path).startswith(os.path.realpath(folder) + os.sep):
                return None, f"{path} is a link that leaves its folder; put the file there itself"
            folders.insert(0, folders.pop(i))
            return path.relative_to(root).as_posix(), ""
    tried = [str(folder / name) for folder in folders]
    return None, f"there is no such file; tried {tried}; correct file_name or put it there"
