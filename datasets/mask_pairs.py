"""Masks of classes: train.txt of lines "picture mask", train/ and trainannot/, or images/ and masks/ (labels/, gt/)."""

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from retinue.datasets import mask_folder
from retinue.datasets.image_folder import pictures_below, split_folders
from retinue.datasets.mask_classes import FILES, Entries
from retinue.datasets.mask_survey import open_pairs
from retinue.datasets.picture_files import SPLITS
from retinue.datasets.pictures import IMAGE_SUFFIXES
from retinue.datasets.problem import Problem
from retinue.datasets.semantic import Pairs, SemanticPictures
from retinue.datasets.targets import DataError

TARGETS = frozenset({"semantic"})
"""What the data can give."""

PICTURES = ("images", "image", "imgs", "img", "jpegimages", "pngimages", "pictures", "photos", "leftimg8bit")
"""What the folder of pictures is called (lower case)."""

MASKS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "annot", "gt", "gtfine", "ground_truth",
    "groundtruth", "segmentation", "segmentations",
)  # fmt: skip
"""What the folder of masks is called (lower case); beside train/ also trainannot/, train_labels/ and so on."""

ENDINGS = (
    "", "_mask", "_L", "_P", "_label", "_labels", "_gt", "_seg", "_segmentation", "_labelTrainIds", "_labelIds",
    "_gtFine_labelTrainIds", "_gtFine_labelIds",
)  # fmt: skip
"""What the name of a mask may have more than its picture's; that with which most pictures have one, the first of
equals."""

PICTURE_ENDINGS = ("_leftImg8bit", "_image", "_img")
"""What the name of a picture may have more than its mask's."""

_CAMVID = (
    "sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car", "pedestrian", "bicyclist",
    "void",
)  # fmt: skip
CAMVID = Entries(list(enumerate(_CAMVID)), False, "CamVid")
"""The 11 classes of CamVid (Brostow et al. 2009, Pattern Recognition Letters 30) as SegNet's masks number them
(Badrinarayanan et al. 2015, arXiv:1511.00561)."""

CAMVID_NAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?\d+")
"""The names of CamVid's pictures: the four drives and the frame."""


class MaskPairs(SemanticPictures):
    """One split in this format."""


class Place(NamedTuple):
    """Where the pictures and the masks of a split lie. names: the pictures that count, None for all of them."""

    pictures: Path
    masks: Path
    names: list[str] | None = None


def splits(source: str, values: str | None = None) -> dict[str, MaskPairs]:
    """The splits of pictures with masks of classes; {} where the source is none.

    Found are list files named as splits are, with lines "picture mask" below the folder (leading parts of a path that
    are not there are passed over: CamVid's say /SegNet/CamVid/train/...); split folders beside folders of masks (train/
    and trainannot/); and one of `PICTURES` beside one of `MASKS`, in the folder (with split folders in both or in
    neither, or with lists of names) or in each split folder. A mask is called as its picture, or has one of `ENDINGS`
    more. Without splits a part is held out. Masks that are called _mask in a folder of masks number objects
    (`mask_folder`), unless `values` or a file in the folder says what they mean.
    What is skipped and what is raised is said at `mask_survey.open_pairs`.
    """
    root = Path(source)
    if not root.is_dir():
        return {}
    listed = {name: _listed(root, file) for name, file in _lists(root).items() if _has_pairs(file)}
    if not listed:
        places = _places(root)
        found = {name: _paired(root, place) for name, place in places.items()}
        numbered = values is None and not any((root / name).is_file() for name in FILES)
        if numbered and any(_counts_objects(places[name], pairs) for name, pairs in found.items()):
            return {}
        listed = found
    if not listed:
        return {}
    stems = [PurePosixPath(path).stem for pairs in listed.values() for path in pairs.pictures]
    camvid = bool(stems) and all(CAMVID_NAME.fullmatch(stem) for stem in stems)
    return open_pairs(MaskPairs, root, listed, values, CAMVID if camvid else None)


# Lists


def _lists(root: Path) -> dict[str, Path]:
    """Split -> the text file in the folder that is called so, in order."""
    found: dict[str, Path] = {}
    for file in sorted(root.glob("*.txt")):
        name = SPLITS.get(file.stem.lower())
        if name in found:
            raise DataError(f"{found[name]} and {file} are both {name}; remove or rename one of them")
        if name and file.is_file():
            found[name] = file
    return {name: found[name] for name in ("train", "val", "test") if name in found}


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text ({error}); save it so") from None
    return [(i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


def _is_picture(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def _two(line: str) -> list[str]:
    """The two paths of a line, apart by a tab, a comma or blanks; or something else."""
    for separator in ("\t", ","):
        if line.count(separator) == 1:
            return [part.strip() for part in line.split(separator)]
    return line.split()


def _has_pairs(file: Path) -> bool:
    try:
        lines = _lines(file)
    except DataError:
        return False
    words = _two(lines[0][1]) if lines else []
    return len(words) == 2 and all(map(_is_picture, words))


def _listed(root: Path, file: Path) -> Pairs:
    """The pairs that a list names, once each."""
    pairs = Pairs([], [], [], [], [])
    top, seen = os.path.realpath(root), set[str]()
    for number, line in _lines(file):
        words = _two(line)
        if len(words) != 2:
            raise DataError(f"{file}:{number}: {line[:200]!r} are not two paths; write picture and mask")
        places = [_inside(root, top, word) for word in words]
        picture, mask = places
        if picture in seen:
            pairs.skipped.append(
                (root / words[0], f"{file.name}:{number} names it again; remove one of the lines")
            )
        elif picture is None or mask is None:
            what = words[places.index(None)]
            reason = f"{file.name}:{number} names {what!r}, and there is no such file below {root}"
            pairs.skipped.append((root / (picture or words[0].lstrip("/")), f"{reason}; put it there"))
        else:
            seen.add(picture)
            pairs.pictures.append(picture)
            pairs.masks.append(mask)
    return pairs


def _inside(root: Path, top: str, text: str) -> str | None:
    """The file that a path names, relative to the root: without those of its leading parts that are not there."""
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts or not text.isprintable():
        return None
    for start in range(len(parts)):
        path = os.path.join(root, *parts[start:])
        if os.path.isfile(path) and os.path.realpath(path).startswith(top.rstrip(os.sep) + os.sep):
            return "/".join(parts[start:])
    return None


# Folders


def _places(root: Path) -> dict[str, Place]:
    """Split -> where its pictures and masks lie; "all" where there are no splits, {} where this is not our format."""
    parts = split_folders(root)
    inner = {name: place for name, folder in parts.items() if (place := _place(folder))}
    if inner:
        return inner
    beside = {name: place for name, folder in parts.items() if (place := _beside(folder))}
    if beside:
        return beside
    whole = _place(root)
    if whole is None:
        return {}
    pictures, masks = split_folders(whole.pictures), split_folders(whole.masks)
    if both := [name for name in pictures if name in masks]:
        return {name: Place(pictures[name], masks[name]) for name in both}
    lists = {name: [line for _, line in _lines(file)] for name, file in _lists(root).items()}
    if not lists:
        return {"all": whole}
    if "train" not in lists:
        paths = [path.relative_to(whole.pictures).as_posix() for path in pictures_below(whole.pictures)]
        taken = {path for names in lists.values() for path in _find(paths, names).values()}
        lists = {"train": [path for path in paths if path not in taken], **lists}
    return {name: whole._replace(names=names) for name, names in lists.items()}


def _find(paths: Iterable[str], names: list[str]) -> dict[str, str | None]:
    """What a list names -> the picture's path, or None: with or without suffix, and without leading parts of the name
    that are not there."""
    by_name = {name: path for path in paths for name in (os.path.splitext(path)[0], path)}
    parts = {name: name.replace("\\", "/").split("/") for name in names}
    tails = {name: ["/".join(each[i:]) for i in range(len(each))] for name, each in parts.items()}
    return {name: next((by_name[tail] for tail in tails[name] if tail in by_name), None) for name in names}


def _place(folder: Path) -> Place | None:
    """The folder of pictures and the folder of masks in a folder that has both."""
    inside = sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    pictures = [each for each in inside if each.name.lower() in PICTURES and pictures_below(each)]
    masks = [each for each in inside if _is_mask_folder(each.name) and pictures_below(each)]
    if not pictures or not masks:
        return None
    for kind, several in (("pictures", pictures), ("masks", masks)):
        if len(several) > 1:
            raise DataError(
                f"{folder}: holds {[each.name for each in several]}; leave one folder of {kind} in it"
            )
    return Place(pictures[0], masks[0])


def _is_mask_folder(name: str) -> bool:
    return name.lower() in MASKS or name.endswith(("Masks", "_masks"))


def _beside(folder: Path) -> Place | None:
    """A folder of pictures and the folder beside it that is called so and one of `MASKS`."""
    name = folder.name.lower()
    called = {name + between + word for between in ("", "_", "-") for word in MASKS}
    masks = sorted(Path(entry.path) for entry in os.scandir(folder.parent) if entry.name.lower() in called)
    masks = [each for each in masks if each.is_dir() and pictures_below(each)]
    if len(masks) > 1:
        raise DataError(
            f"{folder.parent}: holds {[each.name for each in masks]}; leave one folder of masks for {name}"
        )
    return Place(folder, masks[0]) if masks and pictures_below(folder) else None


def _paired(root: Path, place: Place) -> Pairs:
    """The pictures of a place with the masks that are called as they are."""
    pictures = {path.relative_to(place.pictures).as_posix(): path for path in pictures_below(place.pictures)}
    masks: dict[str, Path] = {}
    for path in pictures_below(place.masks):
        stem = path.relative_to(place.masks).with_suffix("").as_posix()
        if stem not in masks or path.suffix.lower() == ".png":
            masks[stem] = path
    pairs = Pairs([], [], [], [], [])
    if place.names is not None:
        chosen = _find(pictures, place.names)
        reason = "a list names it, and there is no such picture; put it there"
        pairs.skipped.extend((place.pictures / name, reason) for name, path in chosen.items() if path is None)
        pictures = {path: pictures[path] for path in chosen.values() if path is not None}
    stems = {name: _stem(name) for name in pictures}
    ending = max(ENDINGS, key=lambda each: sum(stem + each in masks for stem in stems.values()))
    for name, path in pictures.items():
        mask = masks.pop(stems[name] + ending, None)
        if mask is None:
            reason = f"its mask {place.masks / (stems[name] + ending)}.png is not there; put it there"
            pairs.skipped.append((path, reason))
            continue
        pairs.pictures.append(path.relative_to(root).as_posix())
        pairs.masks.append(mask.relative_to(root).as_posix())
    if place.names is None:
        alone = [path for stem, path in masks.items() if stem.endswith(ending)]
        for path in alone:
            value = f"no picture in {place.pictures} is called so"
            pairs.found.append(Problem("warning", "mask without picture", str(path), value, "add it"))
    return pairs


def _stem(name: str) -> str:
    stem = os.path.splitext(name)[0]
    ending = next((each for each in PICTURE_ENDINGS if stem.endswith(each)), "")
    return stem.removesuffix(ending)


def _counts_objects(place: Place, pairs: Pairs) -> bool:
    """Whether masks are called as those that number objects, which is what `mask_folder` takes them for."""
    return (
        place.pictures.name in mask_folder.PICTURES
        and place.masks.name.lower().endswith("masks")
        and any(PurePosixPath(mask).stem.endswith(mask_folder.ENDING) for mask in pairs.masks)
    )
