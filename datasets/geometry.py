"""Warp: an affine map of the picture's frame that moves every key of a sample together.

Frames are those of `datasets.targets`: the centre of the first pixel is (0.5, 0.5). Crops, resizes, flips,
rotations, shears and paddings are all one matrix; several in a row multiply into one, and the picture is
resampled once.

**What depth and normals mean after a warp.** A network takes its pictures for those of one camera that sees
a fixed angle. Resizing the *whole* picture only samples the same view more or less finely, so depth and
normals stay. A crop alone shows less of that view and leaves them too. *Zooming* in by s (a part blown up
to the size of the whole) shows what the same camera would see of the world after (X, Y, Z) -> (X, Y, Z /
s): depth is divided by s (Eigen et al. 2014, arXiv 1406.2283, section 3.4), and normals, which move by the
inverse transpose, have z multiplied by s before they are renormalised. `Warp.view` is that part of the map.
In general, with V = `view` and s = sqrt(|det V|), the world moves by M = diag(V / s, 1 / s): turning and
mirroring turn and mirror it, and the camera in which the moved depth and normals are exactly true is K' = A
K M^-1, which is what becomes of the input `intrinsics`.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from retinue.datasets.resample import compose, inverse, is_upright, move_points, warp_image, warp_nearest
from retinue.datasets.targets import IGNORE, DataError, Sample

MIN_VISIBLE = 0.05
"""A box that the frame cuts is dropped if less than this part of it, or than a pixel a side, remains."""
SNAPPED = 64
"""Parts of at least so many pixels a side may be snapped: their zoom changes by a hundredth at most."""
ROW_KEYS = ("boxes", "box_labels", "crowd", "area", "masks", "keypoints")


@dataclass(frozen=True)
class Warp:
    """An affine map from a picture's pixel frame to a new frame.

    matrix: (2, 3) float64. size: (height, width) of the new frame. view: (2, 2), the part of the linear map
    that is no mere resizing of the whole picture, by which depth and normals move (see the module). pad:
    what the image shows beyond the picture, in [0, 1]. antialias: average rather than sample where the
    picture shrinks. pairs: keypoints that change places when the map mirrors (left and right eye).
    """

    matrix: np.ndarray
    size: tuple[int, int]
    view: np.ndarray = field(default_factory=lambda: np.eye(2))
    pad: float = 0.0
    antialias: bool = True
    pairs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def identity(cls, size: tuple[int, int]) -> "Warp":
        """The map that leaves a picture of this (height, width) as it is."""
        return cls(np.eye(2, 3), size)

    def then(self, after: "Warp") -> "Warp":
        """This map and then `after`, as one.

        The frame in between cuts nothing off: what `after` brings back into sight shows.
        """
        return Warp(
            matrix=compose(after.matrix, self.matrix),
            size=after.size,
            view=after.view @ self.view,
            pad=max(self.pad, after.pad),
            antialias=self.antialias and after.antialias,
            pairs=after.pairs or self.pairs,
        )

    def snap(self, picture: tuple[int, int]) -> "Warp":
        """Nearly the same map, under which whole pixels of a picture of (height, width) fill whole pixels.

        Moves no point of the frame by more than a pixel or two, so drawn maps may be snapped: the picture is
        then resized, which is three times as fast as warping it. Turned maps and small parts stay as they
        are.
        """
        if not is_upright(self.matrix):
            return self
        (a, _, x), (_, d, y) = self.matrix.tolist()
        new_a, x = _snap_line(a, x, picture[1], self.size[1])
        new_d, y = _snap_line(d, y, picture[0], self.size[0])
        view = self.view * np.array([[new_a / a], [new_d / d]])
        return replace(self, matrix=np.array([[new_a, 0, x], [0, new_d, y]]), view=view)

    def __call__(self, sample: Sample, image: np.ndarray | None = None) -> Sample:
        """The sample in the new frame; `image` where the caller has resampled it already.

        Raises DataError for a target or an input that no rule says how to move.
        """
        if (
            image is None
            and self.size == sample.image.shape[:2]
            and np.array_equal(self.matrix, np.eye(2, 3))
        ):
            return sample
        if image is None:
            image = warp_image(sample.image, self.matrix, self.size, self.pad, self.antialias)
        return sample.with_(
            image=image,
            targets=self._targets(sample.targets, sample.id),
            inputs={key: self._input(key, value, sample.id) for key, value in sample.inputs.items()},
            to_file=compose(sample.to_file, inverse(self.matrix)),
        )

    def _targets(self, targets: dict[str, np.ndarray], id: str) -> dict[str, np.ndarray]:
        targets = move_rows(self, targets)
        for key, value in targets.items():
            if key in ROW_KEYS or key == "label":
                continue
            elif key == "semantic":
                targets[key] = self._semantic(value)
            elif key == "depth":
                targets[key] = self._depth(value)
            elif key == "normals":
                targets[key] = self._normals(value)
            elif key == "clean":
                picture = np.ascontiguousarray(value.transpose(1, 2, 0))
                moved = warp_image(picture, self.matrix, self.size, self.pad, self.antialias)
                targets[key] = np.ascontiguousarray(moved.transpose(2, 0, 1))
            elif key == "hole":
                targets[key] = warp_nearest(value, self.matrix, self.size, False)
            else:
                raise DataError(f"{id}: no rule says how the target {key!r} moves with the picture")
        return targets

    def _input(self, key: str, value: np.ndarray, id: str) -> np.ndarray:
        if key == "hole":
            return warp_nearest(value, self.matrix, self.size, False)
        if key == "proposals":
            boxes, keep = clip_boxes(move_boxes(value, self.matrix), self.size)[:2]
            return boxes[keep]
        if key == "intrinsics":
            return self._intrinsics(value)
        if np.ndim(value) < 2:  # a sigma, a camera's name: it has no place in the picture
            return value
        raise DataError(f"{id}: no rule says how the input {key!r} moves with the picture")

    def _semantic(self, labels: np.ndarray) -> np.ndarray:
        small = labels.size == 0 or (labels.min() >= 0 and labels.max() <= 255)
        plane = labels.astype(np.uint8 if small else np.float32)  # cv2 resamples neither int64 nor int32
        return warp_nearest(plane[None], self.matrix, self.size, IGNORE)[0].astype(labels.dtype)

    def _depth(self, depth: np.ndarray) -> np.ndarray:
        moved = warp_nearest(depth[None], self.matrix, self.size, 0)[0]
        zoom = float(np.sqrt(abs(np.linalg.det(self.view))))
        return moved if abs(zoom - 1) < 1e-9 else (moved / zoom).astype(depth.dtype)

    def _normals(self, normals: np.ndarray) -> np.ndarray:
        moved = warp_nearest(normals, self.matrix, self.size, 0)
        if np.allclose(self.view, np.eye(2), atol=1e-9):
            return moved
        turned = np.tensordot(np.linalg.inv(self.view).T.astype(np.float32), moved[:2], 1)
        moved = np.concatenate([turned, moved[2:]])
        length = np.sqrt(np.einsum("chw,chw->hw", moved, moved))
        return (moved / np.where(length > 0, length, 1)).astype(normals.dtype)

    def _intrinsics(self, k: np.ndarray) -> np.ndarray:
        if k.shape != (3, 3):
            raise DataError(f"intrinsics have shape {k.shape}; give the 3x3 matrix fx 0 cx, 0 fy cy, 0 0 1")
        world = np.eye(3)
        world[:2, :2] = self.view  # s M, and the scale of a camera matrix is free
        return (np.vstack([self.matrix, (0, 0, 1)]) @ k @ np.linalg.inv(world)).astype(k.dtype)


def _snap_line(scale: float, shift: float, extent: int, frame: int) -> tuple[float, float]:
    """Scale and shift for one axis of `Warp.snap`: both ends of what shows become whole."""
    low, high = sorted((shift, shift + scale * extent))
    low, high = max(0.0, low), min(float(frame), high)
    start, stop = (round(v) for v in sorted(((low - shift) / scale, (high - shift) / scale)))
    low, high = round(low), round(high)
    if min(stop - start, high - low) < SNAPPED:
        return scale, shift
    new = (high - low) / (stop - start)
    return (new, low - new * start) if scale > 0 else (-new, high + new * start)


# Boxes, points and the rows that belong to one object


def move_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The upright boxes around the moved corners of boxes (n, 4), float64."""
    corners = boxes.reshape(-1, 4)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)
    moved = move_points(corners, matrix)
    return np.concatenate([moved.min(1), moved.max(1)], 1)


def clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut to a frame of (height, width).

    Returns the cut boxes (n, 4) float32, which of them remain (n,) bool (see `MIN_VISIBLE`; those that the
    frame does not cut always do, unless they are empty), and the visible part of each one's area (n,)
    float64.
    """
    height, width = size
    cut = np.clip(boxes, 0, (width, height, width, height))
    sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
    visible = sides.prod(1) / np.maximum(whole.prod(1), 1e-12)
    large_enough = (sides >= 1).all(1) & (visible >= MIN_VISIBLE)
    keep = (sides > 0).all(1) & (large_enough | (visible > 1 - 1e-6))
    return cut.astype(np.float32), keep, visible


def move_rows(warp: Warp, targets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A new dict in which the keys of `ROW_KEYS` are moved; objects that left the frame leave all of them.

    Where there are masks, a box that the frame cuts or the map turns becomes its mask's own; an object that never had
    an outline keeps its box.
    """
    targets = dict(targets)
    outlined = (
        np.logical_or.reduce(targets["masks"], axis=(1, 2)) if "masks" in targets else np.zeros(0, bool)
    )
    if "boxes" in targets:
        boxes, keep, visible = clip_boxes(move_boxes(targets["boxes"], warp.matrix), warp.size)
        targets["boxes"] = boxes
        for key in ROW_KEYS:
            if key in targets:
                targets[key] = targets[key][keep]
        visible = visible[keep]
    else:
        visible = np.ones(len(targets.get("area", ())))
    if "area" in targets:
        scale = abs(np.linalg.det(warp.matrix[:, :2]))
        targets["area"] = (targets["area"] * scale * visible).astype(np.float32)
    if "keypoints" in targets:
        targets["keypoints"] = move_keypoints(targets["keypoints"], warp)
    if "masks" in targets:
        targets["masks"] = warp_nearest(targets["masks"], warp.matrix, warp.size, False)
        if "boxes" in targets and len(visible):
            turned = not is_upright(warp.matrix)
            tighten(targets, outlined[keep] & (np.full(len(visible), turned) | (visible < 1 - 1e-6)))
    return targets


def tighten(targets: dict[str, np.ndarray], rows: np.ndarray) -> None:
    """Boxes of these rows become their masks' own; rows whose mask is empty go."""
    keep = np.ones(len(rows), bool)
    for i in np.flatnonzero(rows):
        box = mask_box(targets["masks"][i])
        keep[i] = box is not None
        if box is not None:
            targets["boxes"][i] = box
    if not keep.all():
        for key in ROW_KEYS:
            if key in targets:
                targets[key] = targets[key][keep]


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """x1 y1 x2 y2 of a mask (h, w) bool, the far edges exclusive; None for an empty one."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def move_keypoints(keypoints: np.ndarray, warp: Warp) -> np.ndarray:
    """Keypoints (n, k, 3) moved; pairs change places under a mirror; x, y and v are 0 outside the frame."""
    height, width = warp.size
    moved = keypoints.astype(np.float32, copy=True)
    moved[..., :2] = move_points(keypoints[..., :2].astype(np.float64), warp.matrix)
    x, y = moved[..., 0], moved[..., 1]
    moved[(x < 0) | (y < 0) | (x > width) | (y > height) | (moved[..., 2] == 0)] = 0
    if warp.pairs and np.linalg.det(warp.matrix[:, :2]) < 0:
        order = np.arange(moved.shape[1])
        for a, b in warp.pairs:
            order[[a, b]] = b, a
        moved = moved[:, order]
    return moved
