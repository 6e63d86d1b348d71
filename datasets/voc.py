"""Pascal VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main/{train,val,test}.txt; or pictures beside their xml."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinue.datasets.annotations import Annotations
from retinue.datasets.image_folder import pictures_below, split_folders
from retinue.datasets.objects import ObjectPictures, divided
from retinue.datasets.picture_files import as_bytes
from retinue.datasets.pictures import IMAGE_SUFFIXES
from retinue.datasets.targets import ClassMap, DataError
from retinue.datasets.voc_xml import DEVKIT, VocPicture, corners, read_xml

PICTURES = ("JPEGImages", "images", "Images")
XML = ("Annotations", "annotations")
"""What the two folders are called, the devkit's names first."""

TARGETS = frozenset({"boxes", "box_labels", "crowd"})
"""What the data can give."""


class PascalVoc(ObjectPictures):
    """One split in this format."""


class Layout(NamedTuple):
    """Where some pictures and their xml files lie. stems: the names of a list; None: every xml file's."""

    root: Path
    pictures: Path
    xml: Path
    stems: list[str] | None


class Part(NamedTuple):
    """One split as read: its pictures, relative to the root with "/", and what their xml files say."""

    root: Path
    paths: list[str]
    read: list[VocPicture]
    skipped: list[tuple[Path, str]]
    remarks: list[str]


def splits(source: str) -> dict[str, PascalVoc]:
    """The splits of a Pascal VOC data set; {} where there is none.

    Found are the devkit's layout, also nested as VOCdevkit/VOC2007, with its lists (train and val, or trainval as
    train); an annotation folder beside a picture folder without lists; and pictures beside their xml files, in split
    folders or not. Boxes become x1 y1 x2 y2 in [0, width], as `first_pixel` says. `difficult` objects are `crowd`:
    the challenge's evaluation ignores them too (Everingham et al. 2010, IJCV 88). Classes are the names in all
    splits, sorted. A file that cannot be read is `skipped` by name. Raises DataError where nothing is left of a split.
    """
    root = Path(source)
    if not root.is_dir():
        return {}
    parts = {name: _read(layout) for name, layout in _layouts(root).items()}
    if "test" in parts and len(parts) > 1 and not parts["test"].read:
        del parts["test"]  # the challenges published test pictures without annotations
    for name, part in parts.items():
        if not part.read:
            file, reason = part.skipped[0] if part.skipped else (part.root, "there was none")
            raise DataError(
                f"{part.root}: nothing of split {name!r} can be read; the first: {file}: {reason}"
            )
    found = _data_sets(parts) if parts else {}
    return divided(found["all"]) if "all" in found else found


def _data_sets(parts: dict[str, Part]) -> dict[str, PascalVoc]:
    first, why = first_pixel(picture for part in parts.values() for picture in part.read)
    used = {name: {o.name for picture in part.read for o in picture.objects} for name, part in parts.items()}
    names = tuple(sorted(set().union(*used.values())))
    found = {}
    for name, part in parts.items():
        annotations = _annotations(part, names, first)
        classes = ClassMap(names, names)
        found[name] = data = PascalVoc(part.root, name, annotations, classes, skipped=part.skipped)
        data.remarks += part.remarks + [why] * bool(why)
        if "train" in used and (unseen := sorted(used[name] - used["train"])):
            data.remarks.append(f"the classes {unseen} do not occur in train")
    return found


def _annotations(part: Part, names: tuple[str, ...], first: int) -> Annotations:
    index = {name: i for i, name in enumerate(names)}
    objects = [each for picture in part.read for each in picture.objects]
    boxes = np.array([corners(each.bounds, first) for each in objects], np.float64)
    return Annotations(
        paths=as_bytes(part.paths),
        offsets=np.cumsum([0] + [len(picture.objects) for picture in part.read], dtype=np.int64),
        boxes=boxes.reshape(-1, 4),
        labels=np.array([index[each.name] for each in objects], np.int64),
        crowd=np.array([each.difficult for each in objects], bool),
        sizes=np.array([picture.size for picture in part.read], np.int32).reshape(-1, 2),
        extras={
            "truncated": np.array([each.truncated for each in objects], bool),
            "pose": np.array([each.pose.encode() for each in objects], np.bytes_),
        },
    )


def first_pixel(pictures: Iterable[VocPicture]) -> tuple[int, str]:
    """The index of the first pixel, for `corners`, and why (for the user; "" where the files say it themselves).

    1 is the devkit's: xmin ... xmax name the first and the last pixel. It holds where `source/annotation` says
    PASCAL VOC, and where nothing speaks against it. 0, corners as they stand, holds for the whole data set where a
    coordinate below 1 occurs, which the devkit does not know, or where all files come from LabelImg (`database` is
    Unknown), which writes the corners that were drawn and only lifts 0 to 1.
    """
    stated = labelimg = True
    low = ""
    for picture in pictures:
        stated &= picture.annotation.startswith(DEVKIT)
        labelimg &= picture.database == "Unknown"
        for each in picture.objects:
            if any(0 <= float(value) < 1 for value in each.bounds[:2]):
                low = low or f"{picture.filename} has a {each.name} at {', '.join(each.bounds)}"
    if stated:
        return 1, ""
    if low:
        return 0, f"coordinates are taken as corners that count from 0: {low}"
    if labelimg:
        return 0, "coordinates are taken as corners that count from 0: the files are LabelImg's"
    return 1, "coordinates are taken as the devkit's: first and last pixel, counted from 1"


def _layouts(root: Path) -> dict[str, Layout]:
    """Split -> where it lies; "all" where there are no splits, {} where this is not our format."""
    devkits = [folder for folder in (root, *nested_devkits(root)) if _folders(folder)]
    if len(devkits) > 1 and devkits[0] != root:
        raise DataError(f"{root}: holds {[str(d.relative_to(root)) for d in devkits]}; name one of them")
    for folder in devkits[:1]:
        pictures, xml = _folders(folder) or (folder, folder)
        lists = split_lists(folder / "ImageSets/Main")
        if lists:
            return {name: Layout(folder, pictures, xml, read_list(file)) for name, file in lists.items()}
        return {"all": Layout(folder, pictures, xml, None)}
    inside = {
        name: folder for name, folder in split_folders(root).items() if _beside(folder) or _folders(folder)
    }
    if inside:
        pairs = {name: _folders(folder) or (folder, folder) for name, folder in inside.items()}
        return {name: Layout(root, pictures, xml, None) for name, (pictures, xml) in pairs.items()}
    return {"all": Layout(root, root, root, None)} if _beside(root) else {}


def nested_devkits(root: Path) -> list[Path]:
    """Folders below that are called as the challenges' data sets are."""
    return sorted(
        path for pattern in ("VOC*", "VOCdevkit/VOC*") for path in root.glob(pattern) if path.is_dir()
    )


def _folders(folder: Path) -> tuple[Path, Path] | None:
    """The picture folder and the annotation folder of a data set, where it has both."""
    pictures = next((folder / name for name in PICTURES if (folder / name).is_dir()), None)
    xml = next((folder / name for name in XML if (folder / name).is_dir()), None)
    return (pictures, xml) if pictures and xml and next(_walk(xml), None) else None


def _beside(folder: Path) -> bool:
    """Whether some picture lies beside an xml file of its name."""
    names = [os.path.splitext(entry.name) for entry in os.scandir(folder) if entry.is_file()]
    stems = {stem for stem, suffix in names if suffix == ".xml"}
    return bool(stems) and any(stem in stems and suffix.lower() in IMAGE_SUFFIXES for stem, suffix in names)


def split_lists(folder: Path) -> dict[str, Path]:
    """Split -> its list. trainval stands for train where there is no train."""
    there = {name: folder / f"{name}.txt" for name in ("train", "val", "trainval", "test")}
    there = {name: file for name, file in there.items() if file.is_file()}
    trainval = there.pop("trainval", None)
    return there if "train" in there or trainval is None else {"train": trainval, **there}


def read_list(file: Path) -> list[str]:
    """The pictures that a list names, once each. DataError where it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}); save it so") from None
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _walk(folder: Path) -> Iterator[str]:
    """The xml files at any depth, relative to the folder with "/"."""
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.endswith(".xml") and not name.startswith("."):
                yield Path(where, name).relative_to(folder).as_posix()


def _read(layout: Layout) -> Part:
    """Read the xml files of one split. Only files that were found by listing the folders are opened."""
    files = {file.removesuffix(".xml"): layout.xml / file for file in _walk(layout.xml)}
    pictures = [path.relative_to(layout.pictures).as_posix() for path in pictures_below(layout.pictures)]
    by_stem = {os.path.splitext(path)[0]: path for path in reversed(pictures)}
    by_name = {os.path.basename(path): path for path in reversed(pictures)}
    part = Part(layout.root, [], [], [], [])
    used: set[str] = set()
    for stem in files if layout.stems is None else layout.stems:
        if (file := files.get(stem)) is None:
            part.skipped.append((layout.xml / f"{stem}.xml", "there is no such file; the list names it"))
            continue
        try:
            read = read_xml(file)
        except DataError as error:
            part.skipped.append((file, str(error).removeprefix(f"{file}: ")))
            continue
        path = by_stem.get(stem) or by_name.get(read.filename.replace("\\", "/").rpartition("/")[2])
        if path is None or path in used:
            fault = "belongs to another xml file too" if path else "is not there"
            part.skipped.append(
                (file, f"its picture {path or stem} {fault}; look for it in {layout.pictures}")
            )
            continue
        used.add(path)
        part.paths.append((layout.pictures / path).relative_to(layout.root).as_posix())
        part.read.append(read)
    if layout.stems is None and len(pictures) > len(part.paths):
        part.remarks.append(f"{len(pictures) - len(part.paths)} pictures without an xml file are not used")
    return part
