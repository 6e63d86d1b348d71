"""The data.yaml of a YOLO data set: its classes and its keypoints. Only text is made of it, never an object."""

from pathlib import Path
from typing import Any

import yaml

from retinue.datasets.coco_keypoints import SIGMA
from retinue.datasets.targets import DataError

MAX_BYTES = 1 << 16
MAX_BRACKETS = 500
"""Larger yaml files, and those with more brackets, are refused unread: they would take seconds."""


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping that a yaml file holds, with every scalar as the text that is written there ("no" stays "no").

    Raises DataError where it cannot be parsed, is no mapping or is too large.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DataError(f"{file}: is larger than {MAX_BYTES >> 10} kB; list the pictures in text files")
        if data.count(b"[") + data.count(b"{") > MAX_BRACKETS:
            raise DataError(f"{file}: has more than {MAX_BRACKETS} brackets; write names as a plain list")
        value = yaml.load(data.decode("utf-8-sig"), Loader=yaml.BaseLoader)
    except DataError:
        raise
    except (yaml.YAMLError, RecursionError, OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"{file}: cannot be read as yaml ({reason}); correct it") from None
    if not isinstance(value, dict):
        raise DataError(f"{file}: is no mapping but {type(value).__name__}; write names:, train: and val:")
    return value


def class_names(file: Path, value: dict[str, Any]) -> dict[int, str]:
    """Number in the label files -> name, from `names` (a list or a mapping) and `nc`, which must agree."""
    names, count = value.get("names"), value.get("nc") or None
    if count is not None and not (isinstance(count, str) and count.isdecimal() and len(count) < 7):
        raise DataError(f"{file}: nc is {short(count)}; write the number of classes")
    if not names and count:
        names = [f"class_{i}" for i in range(int(count))]
    given = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(given, dict) or not given:
        raise DataError(f"{file}: names is {short(names)}; write a list of class names")
    classes = {}
    for number, name in given.items():
        if not (isinstance(number, int) or (number.isdecimal() and len(number) < 7)):
            raise DataError(f"{file}: names has the key {short(number)}; keys are the numbers of the classes")
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 400:
            raise DataError(f"{file}: the name of class {number} is {short(name)}; write a text")
        classes[int(number)] = name.strip()
    if count and int(count) != len(classes):
        raise DataError(f"{file}: nc is {count}, but there are {len(classes)} names; make them agree")
    if len(set(classes.values())) < len(classes):
        twice = sorted({name for name in classes.values() if list(classes.values()).count(name) > 1})
        raise DataError(f"{file}: the names {twice[:5]} are given twice; rename one of each")
    return dict(sorted(classes.items()))


def short(value: Any) -> str:
    """A value in a message."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def keypoint_shape(file: Path, value: dict[str, Any]) -> tuple[int, int] | None:
    """(K, 2 or 3) where the yaml has `kpt_shape`."""
    shape = value.get("kpt_shape")
    if not shape:
        return None
    whole = isinstance(shape, list) and len(shape) == 2
    if not whole or not all(isinstance(n, str) and n.isdecimal() and len(n) < 4 for n in shape):
        raise DataError(f"{file}: kpt_shape is {short(shape)}; write [number of points, 2 or 3]")
    points, numbers = map(int, shape)
    if not points or numbers not in (2, 3):
        raise DataError(f"{file}: kpt_shape is {[points, numbers]}; write [number of points, 2 or 3]")
    return points, numbers


def keypoint_classes(file: Path, value: dict[str, Any], count: int) -> dict[str, Any]:
    """What `ClassMap.keypoints` says: names from `kpt_names`, pairs from `flip_idx`."""
    flip = value.get("flip_idx") or [str(i) for i in range(count)]
    if not isinstance(flip, list) or sorted(map(str, flip)) != sorted(map(str, range(count))):
        raise DataError(f"{file}: flip_idx must hold each number from 0 to {count - 1} once; correct it")
    order = [int(i) for i in flip]
    if any(order[order[i]] != i for i in range(count)):
        raise DataError(
            f"{file}: flip_idx does not exchange points in pairs; flipping twice must change nothing"
        )
    names = value.get("kpt_names")
    if isinstance(names, dict):  # by class; all have the same points here
        names = next(iter(names.values()), None)
    sound = isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names)
    return {
        "names": list(names) if sound and names else [f"point_{i}" for i in range(count)],
        "pairs": [[i, j] for i, j in enumerate(order) if i < j],
        "sigmas": [SIGMA] * count,
        "skeleton": [],
    }
