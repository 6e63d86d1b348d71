"""Scenes: the embedded data set, rendered solids on a ground plane with exact targets, drawn from a seed.

Nothing is read from disk. Spheres, boxes, cylinders and cones of 0.4 to 1.3 m stand, lie or float before
walls or an open sky; camera, sizes, materials and light vary widely, while patterns have a fixed size in
metres, so that distance can be told from a single picture.
"""

import re
from collections.abc import Iterator
from hashlib import sha256

import numpy as np

from retinue.datasets.render import Scene, intrinsics, render
from retinue.datasets.scenery import KINDS, draw_scene
from retinue.datasets.targets import ClassMap, DataError, Sample

VISIBLE = 8 / 128**2
"""Least share of the picture that an object in `boxes` covers: 8 pixels at 128 x 128."""


class Scenes:
    """`count` rendered scenes. The same (seed, split, index, size) is the same bytes in any process.

    size: side of a square picture, or (height, width); the central square shows the same view for any size.
    Picture i has id "<split>/<i, six digits>", image (h, w, 3) uint8 RGB and `inputs["intrinsics"]` (3, 3)
    float32 in pixels. Targets are those of `keys`: `label` is the class of the object with most visible
    pixels; `boxes` are the tight boxes of `masks`, which hold visible pixels only, and `area` counts these;
    objects that show too few pixels (`VISIBLE`) have no box but do count in `semantic`. `depth` and
    `normals` are known up to 20 m, 0 beyond: sky and haze. Raises DataError for a count below 1 or a bad
    size.
    """

    classes = ClassMap(KINDS)
    """Classes of `label` and `box_labels`."""
    semantic_classes = ClassMap(("background", *KINDS))
    """Classes of `semantic`; ground, walls and sky are background, object class c is c + 1."""
    rendered = True
    """A sample costs more to make than to keep."""
    whole_pictures = True
    """`label` is the largest object's: a part of the picture may show another."""
    keys = frozenset(
        {"label", "boxes", "box_labels", "crowd", "area", "masks", "semantic", "depth", "normals"}
    )

    def __init__(
        self, count: int, size: int | tuple[int, int] = 128, seed: int = 0, split: str = "train"
    ) -> None:
        if count < 1:
            raise DataError(
                f"scenes: the number of pictures is {count}; ask for at least 1, as in scenes:1000"
            )
        self.count, self.seed, self.split = count, seed, split
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise DataError(
                f"scenes: size {size!r} is neither a side nor (height, width) of at least 1 pixel"
            )

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(self.count))

    def id(self, index: int) -> str:
        """What picture `index` is called."""
        return f"{self.split}/{index:06d}"

    def with_size(self, size: int | tuple[int, int]) -> "Scenes":
        """The same scenes rendered at another size."""
        return Scenes(self.count, size, self.seed, self.split)

    def generator(self, index: int) -> np.random.Generator:
        """The source of all that is random in scene `index`."""
        key = sha256(f"{self.seed}/{self.split}/{index}".encode()).digest()
        return np.random.default_rng(int.from_bytes(key[:16], "little"))

    def scene(self, index: int) -> Scene:
        """What picture `index` shows: its surfaces, materials and light, the same for every size."""
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return draw_scene(self.generator(index))

    def __getitem__(self, index: int) -> Sample:
        scene, (height, width) = self.scene(index), self.size
        view = render(scene, height, width)
        grain = self.generator(index).standard_normal(view.colour.shape, np.float32)
        image = np.clip(view.colour + scene.noise * grain, 0, 1) * 255 + 0.5
        classes = np.array([KINDS.index(solid.kind) for solid in scene.surfaces[: scene.solids]])
        targets = objects(view.which, classes)
        return Sample(
            id=self.id(index),
            image=image.astype(np.uint8),
            targets={**targets, "depth": view.depth, "normals": view.normals},
            inputs={"intrinsics": intrinsics(scene.focal, height, width)},
        )


def splits(source: str) -> dict[str, Scenes]:
    """The splits behind "scenes" or "scenes:N": N pictures (1000) to train, a tenth each as val and test.

    Anything else gives {}: it is another data set's source. Raises DataError for a bad N.
    """
    name, colon, number = source.partition(":")
    if name != "scenes":
        return {}
    if colon and not re.fullmatch("0*[1-9][0-9]{0,8}", number):
        raise DataError(f"{source!r}: {number!r} is not a number of pictures; write scenes:1000")
    count = int(number) if colon else 1000
    part = max(count // 10, 1)
    return {name: Scenes(n, split=name) for name, n in (("train", count), ("val", part), ("test", part))}


def objects(which: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Targets of the objects from the map of visible surfaces (h, w) and the objects' classes (n,).

    Surfaces from n on, and -1, are background. With no object visible `label` is the first one's class.
    """
    n = len(classes)
    counts = np.bincount(which[(which >= 0) & (which < n)], minlength=n)
    kept = np.flatnonzero(counts >= max(1, round(VISIBLE * which.size)))
    masks = which == kept[:, None, None].astype(which.dtype)
    semantic = np.zeros(128, np.int64)  # int8 -1 reads the last entry
    semantic[:n] = classes + 1
    return {
        "label": np.array(classes[counts.argmax()], np.int64),
        "boxes": tight_boxes(masks),
        "box_labels": classes[kept].astype(np.int64),
        "crowd": np.zeros(len(kept), bool),
        "area": counts[kept].astype(np.float32),
        "masks": masks,
        "semantic": semantic[which],
    }


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) float32 of masks (n, h, w), none empty; x2, y2 is the far edge of the last pixel."""
    n, height, width = masks.shape
    columns, rows = np.asarray(masks.any(1)), np.asarray(masks.any(2))
    x1, y1 = columns.argmax(1), rows.argmax(1)
    x2, y2 = width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)
    return np.stack([x1, y1, x2, y2], 1).astype(np.float32).reshape(n, 4)
