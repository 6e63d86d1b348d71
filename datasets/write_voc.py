"""Write Pascal VOC: JPEGImages/, Annotations/*.xml and ImageSets/Main/*.txt, in the devkit's convention."""

import os
from pathlib import Path

import numpy as np

from retinue.datasets.conversion import Loss, Parts, count, refuse_names
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.voc_xml import DEVKIT, VocObject, VocPicture, plus, write_xml

TOGETHER, BY_STEM, SINGLE_POLYGONS = True, True, False
"""All pictures lie in one folder; xml files are called as they are."""


def picture_path(split: str, name: str) -> str:
    """Where a picture lies in the new data set."""
    return f"JPEGImages/{name}"


def losses(parts: Parts) -> list[Loss]:
    """What VOC's xml cannot hold. DataError for names that cannot stand in it."""
    found = []
    masks = sum(part.annotations.segments is not None for part in parts.values())
    if masks:
        found.append(Loss("masks", "VOC's xml files hold no outlines"))
    if any(part.annotations.keypoints is not None for part in parts.values()):
        found.append(Loss("keypoints", "VOC's xml files hold no keypoints"))
    classes = next(iter(parts.values())).classes
    refuse_names(classes, "VOC's xml")
    used = {classes.names[i] for part in parts.values() for i in np.unique(part.annotations.labels).tolist()}
    if unused := [name for name in classes.names if name not in used]:
        found.append(Loss("", f"classes without objects are not named in VOC: {unused[:10]}"))
    if classes.ids != classes.names or classes.names != tuple(sorted(classes.names)):
        found.append(Loss("", "classes are known by name only: their ids and order are not kept"))
    for what in ("image_ids", "object_ids", "area"):
        if any(getattr(part.annotations, what) is not None for part in parts.values()):
            found.append(Loss("", f"VOC has no place for {what.replace('_', ' ')}"))
    if crowd := sum(count(part.annotations.crowd) for part in parts.values()):
        found.append(Loss("", f"{crowd} crowd objects become difficult ones, which evaluation ignores too"))
    return found


def write(parts: Parts, out: Path, names: dict[str, list[str]]) -> None:
    """Write an xml file a picture, and the lists of the splits; trainval too where there are train and val."""
    lists = {split: [os.path.splitext(name)[0] for name in own] for split, own in names.items()}
    if "train" in lists and "val" in lists:
        lists["trainval"] = list(dict.fromkeys(lists["train"] + lists["val"]))
    (out / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    for split, stems in lists.items():
        (out / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems) + "\n", encoding="utf-8")
    for split, part in parts.items():
        for i, name in enumerate(names[split]):
            file = out / "Annotations" / f"{os.path.splitext(name)[0]}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_xml(file, _picture(part, i, name))


def _picture(part: ObjectPictures, index: int, name: str) -> VocPicture:
    a = part.annotations
    height, width = np.asarray(a.sizes)[index].tolist()
    first, last = a.offsets[index : index + 2].tolist()
    objects = []
    for row in range(first, last):
        x1, y1, x2, y2 = a.boxes[row].tolist()
        objects.append(
            VocObject(
                name=part.classes.names[a.labels[row]],
                bounds=(plus(x1, 1), plus(y1, 1), plus(x2, 0), plus(y2, 0)),
                difficult=a.crowd is not None and bool(a.crowd[row]),
                truncated=bool(a.extras["truncated"][row]) if "truncated" in a.extras else False,
                pose=a.extras["pose"][row].decode() if "pose" in a.extras else "",
            )
        )
    return VocPicture(os.path.basename(name), (height, width), "retinue", f"{DEVKIT} layout", objects)
