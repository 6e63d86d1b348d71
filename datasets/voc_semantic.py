"""Pascal VOC's masks of classes: JPEGImages/, SegmentationClass/*.png and ImageSets/Segmentation/{train,val}.txt."""

from pathlib import Path

from retinue.datasets.image_folder import pictures_below
from retinue.datasets.mask_classes import Entries
from retinue.datasets.mask_survey import open_pairs
from retinue.datasets.semantic import Pairs, SemanticPictures
from retinue.datasets.targets import IGNORE, DataError
from retinue.datasets.voc import nested_devkits, read_list, split_lists

TARGETS = frozenset({"semantic"})
"""What the data can give."""

PICTURES, MASKS = "JPEGImages", "SegmentationClass"

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC = Entries([*enumerate(NAMES), (IGNORE, "void")], False, "Pascal VOC")
"""The challenge's 20 classes and background, as the palette's indices number them; 255 borders objects (Everingham et
al. 2010, IJCV 88)."""


class VocSemantic(SemanticPictures):
    """One split in this format."""


def splits(source: str, values: str | None = None) -> dict[str, VocSemantic]:
    """The splits of Pascal VOC's segmentation; {} where there is none.

    Found are the two folders, also nested as VOCdevkit/VOC2012, with their lists (train and val, or trainval as train);
    without lists all pictures that have a mask count, and a part is held out. The classes are VOC's where all values
    fit; a file of classes in the folder (CVAT's labelmap.txt, labelme's class_names.txt) or `values` names others.
    What is skipped and what is raised is said at `mask_survey.open_pairs`.
    """
    root = Path(source)
    if not root.is_dir():
        return {}
    devkits = [each for each in (root, *nested_devkits(root)) if _has_both(each)]
    if len(devkits) > 1 and devkits[0] != root:
        raise DataError(f"{root}: holds {[str(d.relative_to(root)) for d in devkits]}; name one of them")
    for folder in devkits[:1]:
        lists = split_lists(folder / "ImageSets/Segmentation")
        named = {name: read_list(file) for name, file in lists.items()}
        listed = {name: _listed(folder, stems) for name, stems in named.items()} or {
            "all": _listed(folder, None)
        }
        return open_pairs(VocSemantic, folder, listed, values, VOC)
    return {}


def _has_both(folder: Path) -> bool:
    return all((folder / name).is_dir() and pictures_below(folder / name) for name in (PICTURES, MASKS))


def _listed(folder: Path, stems: list[str] | None) -> Pairs:
    """The pairs that a list names; without one, all that are complete."""
    pictures, masks = (_by_stem(folder, folder / name) for name in (PICTURES, MASKS))
    pairs = Pairs([], [], [], [], [])
    for stem in masks if stems is None else stems:
        picture, mask = pictures.get(stem), masks.get(stem)
        if picture and mask:
            pairs.pictures.append(picture)
            pairs.masks.append(mask)
            continue
        missing = f"{folder / MASKS / stem}.png" if picture else f"{folder / PICTURES / stem}.jpg"
        place = folder / (picture or f"{PICTURES}/{stem}.jpg")
        pairs.skipped.append((place, f"{missing} is not there; put it there"))
    if stems is None and len(pictures) > len(pairs.pictures):
        pairs.remarks.append(f"{len(pictures) - len(pairs.pictures)} pictures without a mask are not used")
    return pairs


def _by_stem(root: Path, folder: Path) -> dict[str, str]:
    """Path in the folder without suffix -> path relative to the root, of its pictures."""
    paths = pictures_below(folder)
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path.relative_to(root).as_posix()
        for path in paths
    }
