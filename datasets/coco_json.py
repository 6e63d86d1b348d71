"""Read one COCO annotation file: pictures, categories and objects, checked one by one, into flat arrays."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from retinue.datasets.annotations import Annotations
from retinue.datasets.coco_keypoints import keypoint_classes, read_keypoints
from retinue.datasets.json_values import load_json, shown
from retinue.datasets.picture_files import as_bytes
from retinue.datasets.problem import Problem
from retinue.datasets.segments import Segments, fault
from retinue.datasets.targets import ClassMap, DataError

LARGEST = 2**15
"""The side that a picture of unstated size is taken to have at most, to judge outlines by."""


@dataclass
class CocoJson:
    """What a file says. annotations: `paths` are its file_names as written, `sizes` as stated; objects stand in
    the file's order within each picture, boxes are x1 y1 x2 y2 and not yet cleaned. problems: what was left out.
    """

    file: Path
    annotations: Annotations
    classes: ClassMap
    problems: list[Problem] = field(default_factory=list)


class Fault(Exception):
    """An entry that cannot be used: (kind of problem, what is wrong)."""


def read_coco(file: Path) -> CocoJson:
    """Read a COCO json file of instances or keypoints.

    Category ids may have holes; classes are sorted by id. `area` is computed where it is missing. Entries that
    cannot be used are left out, one by one, and named in `problems`.
    Raises DataError: not JSON, not COCO's object of lists, unusable categories, not one usable picture or annotation.
    """
    value = _load(file)
    problems: list[Problem] = []
    categories = _categories(file, value["categories"])
    points = keypoint_classes(file, categories)
    classes = ClassMap(tuple(c["name"] for c in categories), tuple(c["id"] for c in categories), points)
    images = _images(file, value["images"], problems)
    by_id = {str(image.id): position for position, image in enumerate(images)}
    index = {str(id): i for i, id in enumerate(classes.ids)}
    reader = _Objects(images, by_id, index, len(points.get("names", ())))
    objects, unknown = [], set()
    for position, one in enumerate(value["annotations"]):
        try:
            objects.append(reader.read(one, position))
        except Fault as error:
            kind, what = error.args
            name = (
                f"annotation {shown(one.get('id', position))}"
                if isinstance(one, dict)
                else f"number {position}"
            )
            remedy = "left out; correct or remove it"
            problems.append(Problem("error", kind, str(file), f"{name}: {what}", remedy))
            if kind == "unknown category":
                unknown.add(_key(one.get("category_id")))
    problems += _shifted(file, unknown, {each.label for each in objects}, classes)
    if value["annotations"] and not objects:
        count = len(value["annotations"])
        raise DataError(
            f"{file}: none of {count} annotations can be used; the last: {problems[-1].value}; correct them"
        )
    return CocoJson(file, _annotations(images, objects), classes, problems)


def _load(file: Path) -> dict[str, Any]:
    value = load_json(file, "COCO", "correct it")
    lists = ("images", "annotations", "categories")
    if not isinstance(value, dict) or not all(isinstance(value.get(name), list) for name in lists):
        there = sorted(map(shown, value)) if isinstance(value, dict) else type(value).__name__
        raise DataError(f"{file}: is {str(there)[:200]}, COCO has the lists {list(lists)}; correct it")
    return value


def _key(id: Any) -> str | None:
    """Ids are compared as text: some tools write whole numbers here and strings there. None: not an id."""
    if type(id) is int and abs(id) < 2**63:
        return str(id)
    return id if isinstance(id, str) and 0 < len(id) <= 256 and id.isprintable() else None


def _categories(file: Path, values: list[Any]) -> list[dict[str, Any]]:
    for value in values:
        name = value.get("name") if isinstance(value, dict) else None
        if not isinstance(name, str) or not name or not name.isprintable() or _key(value.get("id")) is None:
            raise DataError(f"{file}: category {shown(value)} has no name or no id; correct it")
    for what in ("name", "id"):
        seen = Counter(str(value[what]) for value in values)
        if twice := [each for each, count in seen.items() if count > 1]:
            raise DataError(f"{file}: category {what} {twice[:5]} is given twice; rename or merge them")
    if not values:
        raise DataError(f"{file}: has no categories; add them")
    whole = all(type(value["id"]) is int for value in values)
    return sorted(values, key=lambda c: c["id"]) if whole else values


@dataclass
class Image:
    """A picture as the file states it; size 0, 0 where it says nothing sensible."""

    id: int | str
    name: str
    size: tuple[int, int]


def _images(file: Path, values: list[Any], problems: list[Problem]) -> list[Image]:
    images: dict[str, Image] = {}
    for position, value in enumerate(values):
        entry = value if isinstance(value, dict) else {}
        name, key = entry.get("file_name"), _key(entry.get("id"))
        if key is None or key in images:
            what = f"has no id of its own: {shown(entry.get('id'))}"
        elif not isinstance(name, str) or not 0 < len(name) <= 1000 or not name.isprintable():
            what = f"has no file_name: {shown(name)}"
        else:
            height, width = (
                v if type(v) is int and 0 < v < 2**31 else 0 for v in map(value.get, ("height", "width"))
            )
            images[key] = Image(value["id"], name, (height, width) if height and width else (0, 0))
            continue
        text = f"number {position} {what}"
        problems.append(
            Problem("error", "malformed image", str(file), text, "left out; correct or remove it")
        )
    if not images:
        first = problems[0].value if problems else "there are none"
        raise DataError(f"{file}: none of its {len(values)} images can be used: {first}; correct them")
    return list(images.values())


@dataclass
class Object:
    """One annotation, checked."""

    picture: int
    id: int
    label: int
    box: tuple[float, float, float, float]
    crowd: bool
    area: float
    outline: Any
    keypoints: np.ndarray | None
    truncated: bool
    pose: str


@dataclass
class _Objects:
    """What annotations refer to. by_id: the number of an image; index: of a category, both by the id as text."""

    images: list[Image]
    by_id: dict[str, int]
    index: dict[str, int]
    points: int

    def read(self, value: Any, position: int) -> Object:
        """One entry of the list `annotations`. Raises Fault where it cannot be used."""
        if not isinstance(value, dict):
            raise Fault("malformed annotation", f"{shown(value)} is no object")
        picture = self.by_id.get(_key(value.get("image_id")) or "")
        if picture is None:
            raise Fault("unknown image", f"image_id {shown(value.get('image_id'))} is not among the images")
        name, (height, width) = self.images[picture].name, self.images[picture].size
        label = self.index.get(_key(value.get("category_id")) or "")
        if label is None:
            raise Fault("unknown category", f"category_id {shown(value.get('category_id'))} in {name!r}")
        crowd = value.get("iscrowd", 0)
        if crowd not in (0, 1) or isinstance(crowd, float):
            raise Fault("malformed annotation", f"iscrowd {shown(crowd)} in {name!r} is neither 0 nor 1")
        outline = _drawn(value.get("segmentation"))
        if outline is not None and (what := fault(outline, *(self._size(picture, outline)))):
            raise Fault("malformed outline", f"{what}, in {name!r}")
        box = _box(value.get("bbox"), outline, (height, width), name)
        area = value.get("area")
        if not isinstance(area, int | float) or not 0 <= area < 1e18:
            area = _area(box, outline, height, width)
        id = value.get("id")
        return Object(
            picture=picture,
            id=id if type(id) is int and abs(id) < 2**63 else position,
            label=label,
            box=box,
            crowd=bool(crowd),
            area=float(area),
            outline=outline,
            keypoints=self._keypoints(value.get("keypoints"), name) if self.points else None,
            truncated=value.get("truncated") == 1,
            pose=_pose(value.get("pose")),
        )

    def _size(self, picture: int, outline: Any) -> tuple[int, int]:
        """Height and width to judge an outline by; where the picture does not state it, a run-length code's own."""
        if self.images[picture].size[0]:
            return self.images[picture].size
        size = outline.get("size") if isinstance(outline, dict) else None
        if (
            isinstance(size, list)
            and len(size) == 2
            and all(type(v) is int and 0 < v <= LARGEST for v in size)
        ):
            return size[0], size[1]
        return LARGEST, LARGEST

    def _keypoints(self, value: Any, name: str) -> np.ndarray:
        keypoints = read_keypoints(value, self.points)
        if keypoints is None:
            text = f"{shown(value)} in {name!r} are not {self.points} times x, y, visibility"
            raise Fault("malformed keypoints", text)
        return keypoints


def _pose(value: Any) -> str:
    """Pascal VOC's word, which a conversion brings along; "" where it is none."""
    return value if isinstance(value, str) and value.isprintable() and len(value) <= 100 else ""


def _drawn(outline: Any) -> Any:
    """A `segmentation` without its rings of no, one or two points, which cover nothing; None where there is none."""
    if isinstance(outline, list):
        written = [ring for ring in outline if ring != []]  # [[]]: of objects that have a box only
        rings = [ring for ring in written if not isinstance(ring, list) or len(ring) not in (2, 4)]
        return rings or written or None
    return outline or None


def _box(bbox: Any, outline: Any, size: tuple[int, int], name: str) -> tuple[float, float, float, float]:
    """COCO's x y width height -> x1 y1 x2 y2; around the outline where there is none."""
    if bbox is None and isinstance(outline, list):
        points = np.concatenate([np.reshape(ring, (-1, 2)) for ring in outline])
        bbox = [*points.min(0).tolist(), *np.ptp(points, 0).tolist()]
    elif bbox is None and outline is not None and size[0]:
        bbox = coco_mask.toBbox(Segments.of([outline]).rle(0, *size)).tolist()
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(type(v) in (int, float) for v in bbox):
        raise Fault("malformed annotation", f"bbox {shown(bbox)} in {name!r} is not x, y, width, height")
    try:
        x, y, width, height = map(float, bbox)
    except OverflowError:
        raise Fault("malformed annotation", f"bbox {shown(bbox)} in {name!r} holds a huge number") from None
    if not all(math.isfinite(v) for v in (x, y, width, height)):
        raise Fault("NaN box", f"bbox {shown(bbox)} in {name!r} is not finite")
    return x, y, x + width, y + height


def _area(box: tuple[float, float, float, float], outline: Any, height: int, width: int) -> float:
    if outline is not None and height:
        return Segments.of([outline]).area(0, height, width)
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _shifted(file: Path, unknown: set[str | None], used: set[int], classes: ClassMap) -> Iterator[Problem]:
    """Category ids that look as if they were counted from another number than the annotations'."""
    ids = [id for id in classes.ids if isinstance(id, int)]
    if not ids or not unknown or len(ids) < len(classes):
        return
    low, high = str(min(ids) - 1), str(max(ids) + 1)
    last, first = ids.index(max(ids)), ids.index(min(ids))
    if (low in unknown and last not in used) or (high in unknown and first not in used):
        value = f"annotations use {sorted(map(str, unknown))[:5]}, the categories run from {min(ids)} to {max(ids)}"
        yield Problem("error", "off by one?", str(file), value, "count both from the same number")


def _annotations(images: list[Image], objects: list[Object]) -> Annotations:
    objects = sorted(objects, key=lambda each: each.picture)
    whole = all(type(image.id) is int for image in images)
    ids = [image.id if whole else str(image.id).encode() for image in images]
    counts = np.bincount([each.picture for each in objects], minlength=len(images))
    points = [each.keypoints for each in objects if each.keypoints is not None]
    extras = {}
    if any(each.truncated or each.pose for each in objects):
        extras["truncated"] = np.array([each.truncated for each in objects], bool)
        extras["pose"] = np.array([each.pose.encode("utf-8", "replace") for each in objects], np.bytes_)
    return Annotations(
        paths=as_bytes([image.name for image in images]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.array([each.box for each in objects], np.float64).reshape(-1, 4),
        labels=np.array([each.label for each in objects], np.int64),
        crowd=np.array([each.crowd for each in objects], bool),
        area=np.array([each.area for each in objects], np.float64),
        segments=Segments.of(o.outline for o in objects) if any(o.outline for o in objects) else None,
        keypoints=np.stack(points) if points else None,
        sizes=np.array([image.size for image in images], np.int32),
        image_ids=np.array(ids, np.int64 if whole else np.bytes_),
        object_ids=np.array([each.id for each in objects], np.int64),
        extras=extras,
    )
