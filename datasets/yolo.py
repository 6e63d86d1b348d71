"""YOLO txt: data.yaml with names, train and val; images/ and labels/ alike, one text file a picture."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retinue.datasets.annotations import Annotations
from retinue.datasets.image_folder import pictures_below
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.picture_files import SPLITS, as_bytes
from retinue.datasets.pictures import IMAGE_SUFFIXES
from retinue.datasets.segments import Segments
from retinue.datasets.targets import ClassMap, DataError
from retinue.datasets.yolo_txt import Line, UnknownClass, read_lines
from retinue.datasets.yolo_yaml import (
    MAX_BYTES,
    class_names,
    keypoint_classes,
    keypoint_shape,
    read_yaml,
    short,
)

YAML = ("data.yaml", "data.yml", "dataset.yaml")
"""What the file in a folder is called; else it is the only yaml file that names classes and pictures."""


class YoloTxt(ObjectPictures):
    """One split in this format."""


class Listed(NamedTuple):
    """The pictures of one split, relative to the root with "/", and those that cannot be used."""

    paths: list[str]
    skipped: list[tuple[Path, str]]


class Part(NamedTuple):
    """One split as read: pictures with the lines of their label files."""

    paths: list[str]
    lines: list[list[Line]]
    skipped: list[tuple[Path, str]]
    unlabelled: list[str]


def splits(source: str) -> dict[str, YoloTxt]:
    """The splits that a data.yaml names, in the layout of ultralytics; {} where the source is none.

    source: the yaml, or the folder that it lies in. `path` in it is the data set's folder, relative to the yaml;
    where it is not there (the data were moved), the yaml's own folder is taken. train, val and test are folders, text
    files that list pictures, or lists of these, relative to that folder; nothing outside it is read. The labels of
    images/a/1.jpg are in labels/a/1.txt, those of pictures that are in no folder images in a text file beside them;
    a picture without is one without objects. `kpt_shape` and `flip_idx` are read. Files that cannot be read are
    `skipped`, with file:line.
    Raises DataError: a yaml that cannot be understood, folders that are not there (with all paths that were tried), a
    class that the yaml does not have, a split without any label file.
    """
    file = _yaml_file(Path(source))
    if file is None:
        return {}
    value = read_yaml(file)
    classes = class_names(file, value)
    points = keypoint_shape(file, value)
    keypoints = keypoint_classes(file, value, points[0]) if points else {}
    root, listed = _listed(file, value)
    parts = {name: _read(root, each, classes, points) for name, each in listed.items()}
    if "test" in parts and len(parts) > 1 and parts["test"].unlabelled == parts["test"].paths != []:
        del parts["test"]  # published test pictures have no labels
    outlines = any(line.outline for part in parts.values() for lines in part.lines for line in lines)
    known = ClassMap(tuple(classes.values()), tuple(classes), keypoints)
    found = {}
    for name, part in parts.items():
        _check_labelled(file, root, name, part)
        annotations = _annotations(part, known, outlines, points)
        found[name] = data = YoloTxt(root, name, annotations, known, fractions=True, skipped=part.skipped)
        if part.unlabelled:
            data.remarks.append(f"{len(part.unlabelled)} pictures without a label file are taken as empty")
    return found


def _yaml_file(source: Path) -> Path | None:
    if source.suffix.lower() in (".yaml", ".yml") and source.is_file():
        return source if _is_ours(source) else None
    if not source.is_dir():
        return None
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in (".yaml", ".yml"))
    ours = [file for file in files if _is_ours(file)]
    named = [file for file in ours if file.name in YAML]
    if len(named or ours) > 1:
        raise DataError(f"{source}: holds {[file.name for file in named or ours]}; name one of them as data")
    return next(iter(named or ours), None)


def _is_ours(file: Path) -> bool:
    """Whether a yaml file names classes and pictures, judged by its keys without parsing it."""
    try:
        with file.open("rb") as stream:
            lines = stream.read(MAX_BYTES).splitlines()
    except OSError:
        return False
    keys = {line.partition(b":")[0].strip(b"\xef\xbb\xbf'\" ").lower() for line in lines if b":" in line}
    return bool(keys & {b"names", b"nc"}) and any(split.encode() in keys for split in SPLITS)


def _listed(file: Path, value: dict[str, Any]) -> tuple[Path, dict[str, Listed]]:
    """The folder that all paths are relative to, and the pictures of each split."""
    entries: dict[str, list[str]] = {}
    for key, what in value.items():
        name, places = SPLITS.get(key.lower()), [what] if isinstance(what, str) else what
        if name is None or not places or places == [""]:
            continue
        if not isinstance(places, list) or not all(isinstance(place, str) and place for place in places):
            raise DataError(
                f"{file}: {key} is {short(what)}; write a folder, a text file, or a list of these"
            )
        if name in entries:
            raise DataError(f"{file}: names {name} twice; remove one of the two")
        entries[name] = places
    if not entries:
        raise DataError(f"{file}: names neither train nor val; add them")
    roots = _roots(file, value)
    tried: list[str] = []
    for root in roots:
        places = {name: [_place(root, each, tried) for each in every] for name, every in entries.items()}
        if all(place for name, every in places.items() for place in every if name != "test"):
            order = [name for name in ("train", "val", "test") if name in places and all(places[name])]
            return root, {name: _pictures(root, [p for p in places[name] if p]) for name in order}
    raise DataError(f"{file}: not all of {entries} is there; tried {tried}; correct the paths in the yaml")


def _roots(file: Path, value: dict[str, Any]) -> list[Path]:
    """The folder that `path` names, relative to the yaml, and the yaml's own: where the data may lie."""
    home, path = file.parent, value.get("path") or ""
    if not isinstance(path, str) or not path.isprintable() or len(path) > 1000:
        raise DataError(f"{file}: path is {short(path)}; write the data set's folder, relative to the yaml")
    stated = Path(os.path.normpath(home / path))
    return list(dict.fromkeys(root for root in (stated, Path(os.path.normpath(home))) if os.path.isdir(root)))


def _place(root: Path, text: str, tried: list[str]) -> Path | None:
    """The folder or list of pictures that an entry names, if it is there and inside the root.

    A leading ../ is left away where it leads outside: Roboflow writes it although the folders lie beside the yaml.
    """
    if len(text) > 1000 or not text.isprintable():
        return None
    for one in (text, text.removeprefix("../")):
        path = os.path.normpath(root / one)
        inside = _is_inside(path, root)
        if (said := path + " (outside)" * (not inside)) not in tried:
            tried.append(said)
        if inside and (os.path.isdir(path) or (os.path.isfile(path) and path.endswith(".txt"))):
            return Path(path)
    return None


def _is_inside(path: str, root: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def _pictures(root: Path, places: list[Path]) -> Listed:
    paths: dict[str, None] = {}
    skipped: list[tuple[Path, str]] = []
    for place in places:
        if place.is_dir():
            paths.update((path.relative_to(root).as_posix(), None) for path in pictures_below(place))
            continue
        for at, text in _list_lines(place):
            path = _picture(at, text, root, place.parent)
            if path is None:
                skipped.append((root / text, f"there is no such file; {at} names it"))
            else:
                paths[path.relative_to(root).as_posix()] = None
    return Listed(list(paths), skipped)


def _list_lines(file: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}); save it so") from None
    return ((f"{file}:{number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip())


def _picture(at: str, text: str, root: Path, folder: Path) -> Path | None:
    """The picture that a line of a list names, relative to the list's folder or to the root."""
    if not text.isprintable() or os.path.splitext(text)[1].lower() not in IMAGE_SUFFIXES or len(text) > 1000:
        raise DataError(f"{at}: {text[:60]!r} is not the path of a picture; correct the line")
    paths = [os.path.normpath(base / text) for base in (folder, root)]
    inside = [path for path in paths if _is_inside(path, root)]
    if not inside:
        raise DataError(
            f"{at}: {text[:200]!r} leads outside {root}; only files in the data set's folder are read"
        )
    return next((Path(path) for path in inside if os.path.isfile(path)), None)


def label_path(path: str) -> str:
    """The label file of a picture, both relative to the root: the last folder images becomes labels."""
    before, images, after = f"/{path}".rpartition("/images/")
    mirrored = f"{before}/labels/{after}" if images else f"/{path}"
    return os.path.splitext(mirrored)[0].removeprefix("/") + ".txt"


def _read(root: Path, listed: Listed, classes: dict[int, str], points: tuple[int, int] | None) -> Part:
    part = Part([], [], list(listed.skipped), [])
    for path in listed.paths:
        file = root / label_path(path)
        try:
            there = file.is_file()
            lines = read_lines(file, classes, points) if there else []
        except UnknownClass:
            raise
        except DataError as error:
            part.skipped.append((file, str(error).removeprefix(f"{file}:").strip()))
            continue
        if not there:
            part.unlabelled.append(path)
        part.paths.append(path)
        part.lines.append(lines)
    return part


def _check_labelled(file: Path, root: Path, name: str, part: Part) -> None:
    if part.unlabelled and len(part.unlabelled) == len(part.paths) and not part.skipped:
        tried = [str(root / label_path(path)) for path in part.unlabelled[:3]]
        raise DataError(f"{file}: no picture of {name} has a label file; tried {tried}, ...; put them there")
    if not part.paths:
        first = ": ".join(map(str, part.skipped[0])) if part.skipped else "there is none"
        raise DataError(f"{file}: no picture of {name} can be used; the first: {first}")


def _annotations(
    part: Part, classes: ClassMap, outlines: bool, points: tuple[int, int] | None
) -> Annotations:
    lines = [line for lines in part.lines for line in lines]
    index = {id: i for i, id in enumerate(classes.ids)}
    keypoints = np.array([line.keypoints for line in lines], np.float64) if points else None
    return Annotations(
        paths=as_bytes(part.paths),
        offsets=np.cumsum([0] + [len(lines) for lines in part.lines], dtype=np.int64),
        boxes=np.array([line.box for line in lines], np.float64).reshape(-1, 4),
        labels=np.array([index[line.label] for line in lines], np.int64),
        segments=Segments.of([line.outline] if line.outline else None for line in lines)
        if outlines
        else None,
        keypoints=keypoints.reshape(-1, points[0], 3) if keypoints is not None and points else None,
    )
