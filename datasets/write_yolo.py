"""Write YOLO txt: data.yaml, images/<split>/ and labels/<split>/, in the layout of ultralytics."""

from pathlib import Path

import numpy as np
import yaml

from retinue.datasets.conversion import Loss, Parts, count, extras_of, outlines, refuse_names
from retinue.datasets.objects import ObjectPictures
from retinue.datasets.polygons import cut
from retinue.datasets.yolo import label_path
from retinue.datasets.yolo_txt import SLACK
from retinue.datasets.yolo_txt import part as share

TOGETHER, BY_STEM, SINGLE_POLYGONS = False, True, True
"""Splits have folders of their own; text files are called as the pictures are; an outline is one ring."""


def picture_path(split: str, name: str) -> str:
    """Where a picture lies in the new data set."""
    return f"images/{split}/{name}"


def losses(parts: Parts) -> list[Loss]:
    """What YOLO's text files cannot hold."""
    found = []
    annotations = [part.annotations for part in parts.values()]
    if crowd := sum(count(a.crowd) for a in annotations):
        found.append(
            Loss("crowd", f"YOLO would take {crowd} crowd objects, which are to be ignored, for objects")
        )
    masks = any(a.segments is not None for a in annotations)
    if masks and any(a.keypoints is not None for a in annotations):
        text = "a line of YOLO holds an outline or keypoints, not both (drop=masks would keep the keypoints)"
        found.append(Loss("keypoints", text))
    elif masks:
        found += _of_outlines(parts)
    if outside := sum(map(_outside, parts.values())):
        found.append(Loss("", f"{outside} keypoints lie outside their pictures and become unlabelled ones"))
    classes = next(iter(parts.values())).classes
    refuse_names(classes, "data.yaml")
    if classes.ids != tuple(range(len(classes))):
        found.append(Loss("", f"class ids are numbers from 0 on: {list(classes.ids)[:5]} become 0, 1, ..."))
    for what in ("image_ids", "object_ids", "area"):
        if any(getattr(a, what) is not None for a in annotations):
            found.append(Loss("", f"YOLO has no place for {what.replace('_', ' ')}"))
    if said := extras_of(parts):
        found.append(Loss("", f"YOLO has no place for {said}"))
    return found


def _of_outlines(parts: Parts) -> list[Loss]:
    several = bare = leaving = 0
    furthest = 0.0
    for part in parts.values():
        bare += len(part.annotations.labels)
        for picture, row, outline in outlines(part):
            bare -= 1
            if not isinstance(outline, list) or len(outline) > 1:
                several += 1
            if isinstance(outline, list):
                height, width = np.asarray(part.annotations.sizes)[picture].tolist()
                rings = [_shown(ring, height, width) for ring in outline]
                leaving += any(not np.array_equal(ring.ravel(), old) for ring, old in zip(rings, outline))
                if len(points := np.concatenate(rings)):
                    around = np.concatenate([points.min(0), points.max(0)])
                    furthest = max(furthest, float(np.abs(around - part.annotations.boxes[row]).max()))
    found = []
    if several:
        text = f"{several} outlines are run-length codes or of several rings, a line of YOLO holds one ring"
        found.append(Loss("masks", f"{text}; rle=polygons makes them so"))
    if bare:
        text = f"{bare} objects without an outline stand as boxes among outlines, which other readers take for outlines"
        found.append(Loss("", text))
    if leaving:
        found.append(Loss("", f"{leaving} outlines leave their pictures and are cut at the border"))
    if furthest > 1e-6:
        found.append(Loss("", f"boxes become those around the outlines: {furthest:.2f} pixels away at most"))
    return found


def _shown(ring: list[float], height: int, width: int) -> np.ndarray:
    """The points (n, 2) of a ring, cut where it leaves the picture by more than is read again."""
    points = np.reshape(ring, (-1, 2))
    return cut(points, height, width) if _leaves(points, height, width).any() else points


def _leaves(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n,) bool, which points (n, 2) would be refused by who reads them again."""
    outside = np.abs(points / (width, height) - 0.5) > 0.5 + SLACK
    return np.logical_or.reduce(outside, axis=1)


def _outside(part: ObjectPictures) -> int:
    """How many labelled keypoints lie outside their pictures."""
    a = part.annotations
    if a.keypoints is None:
        return 0
    rows = zip(a.keypoints, a.object_sizes().tolist())
    return sum(count(_leaves(points[:, :2], *size) & (points[:, 2] > 0)) for points, size in rows)


def write(parts: Parts, out: Path, names: dict[str, list[str]]) -> None:
    """Write data.yaml and one text file a picture, an empty one where it has no objects."""
    classes = next(iter(parts.values())).classes
    value: dict[str, object] = {"path": "."}
    value |= {split: f"images/{split}" for split in parts}
    value["names"] = dict(enumerate(classes.names))
    if any(part.annotations.keypoints is not None for part in parts.values()):
        points = classes.keypoints
        flip = list(range(len(points["names"])))
        for a, b in points["pairs"]:
            flip[a], flip[b] = b, a
        value |= {"kpt_shape": [len(flip), 3], "flip_idx": flip, "kpt_names": {0: list(points["names"])}}
    out.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    (out / "data.yaml").write_text(text, encoding="utf-8")
    for split, part in parts.items():
        for i, name in enumerate(names[split]):
            file = out / label_path(picture_path(split, name))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{line}\n" for line in _lines(part, i)), encoding="utf-8")


def _lines(part: ObjectPictures, index: int) -> list[str]:
    a = part.annotations
    height, width = np.asarray(a.sizes)[index].tolist()
    lines = []
    for row in range(*a.offsets[index : index + 2].tolist()):
        outline = a.segments.written(row) if a.segments is not None else None
        ring = _shown(outline[0], height, width) if isinstance(outline, list) else np.zeros((0, 2))
        if len(ring):
            values = (ring / (width, height)).ravel()
        else:
            x1, y1, x2, y2 = a.boxes[row] / (width, height, width, height)
            values = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
        numbers = [share(v) for v in values]
        if a.keypoints is not None:
            points = a.keypoints[row]
            points = np.where(_leaves(points[:, :2], height, width)[:, None], 0, points)
            for x, y, seen in points.tolist():
                numbers += [share(x / width), share(y / height), str(int(seen))]
        lines.append(" ".join([str(int(a.labels[row])), *numbers]))
    return lines
