"""Albumentations (2.0.x) as one of our transforms, seeded by our generator; imported where one is constructed."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from retinue.datasets.geometry import ROW_KEYS, clip_boxes, mask_box, tighten
from retinue.datasets.targets import IGNORE, DataError, Others, Sample

DEPTH_KEEPERS = frozenset(
    {
        "CenterCrop",
        "CoarseDropout",
        "Crop",
        "D4",
        "GridDropout",
        "HorizontalFlip",
        "LongestMaxSize",
        "NoOp",
        "Pad",
        "PadIfNeeded",
        "RandomCrop",
        "RandomRotate90",
        "Resize",
        "Rotate",
        "SafeRotate",
        "SmallestMaxSize",
        "SquareSymmetry",
        "Transpose",
        "VerticalFlip",
    }
)
"""Spatial transforms that move depth without changing it: neither zooms nor bends."""
MIRRORS = frozenset({"D4", "HorizontalFlip", "SquareSymmetry", "Transpose", "VerticalFlip"})
NEAREST = (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT)
"""Interpolations that make no value that was not there."""
PLANES = ("semantic", "known", "depth", "hole", "input_hole")


class Albumentations:
    """An albumentations transform or `Compose`, for training.

    Moves the image, `boxes` with their rows, `masks`, `semantic` (what comes in from outside is ignored),
    `hole`, `depth` (only by transforms that neither zoom nor bend) and `keypoints`; own box parameters of a
    `Compose` hold (min_area, min_visibility, min_width, min_height, max_accept_ratio). Albumentations cannot
    say which map it applied: with a spatial transform `to_file` becomes NaN.

    Raises DataError, by name, where the truth of a target would be lost: `normals`, `clean`, `intrinsics` or
    `proposals` under a spatial transform, `clean` under any, keypoints under a mirror (their pairs are not
    known here: use our `HorizontalFlip`), `semantic` where masks would be interpolated, and for uint16 pictures.
    """

    def __init__(self, transform: Any) -> None:
        import albumentations  # costs 0.6 s and is needed by no prediction

        steps, params, p = [transform], {}, 1.0
        if type(transform) is albumentations.Compose:
            steps, p = list(transform.transforms), transform.p
            if "bboxes" in transform.processors:
                own = transform.processors["bboxes"].params
                names = ("min_area", "min_visibility", "min_width", "min_height", "max_accept_ratio")
                params = {name: getattr(own, name) for name in names}
        self.spatial = sorted(
            {type(t).__name__ for t in _leaves(steps) if isinstance(t, albumentations.DualTransform)}
        )
        self.names = [type(t).__name__ for t in _leaves(steps)]
        self.blending = [
            type(t).__name__ for t in _leaves(steps) if getattr(t, "mask_interpolation", 0) not in NEAREST
        ]
        rows: dict[str, Any] = {}
        if self.spatial:
            rows["bbox_params"] = albumentations.BboxParams("pascal_voc", label_fields=["rows"], **params)
            rows["keypoint_params"] = albumentations.KeypointParams("xy", remove_invisible=False)
        planes = dict.fromkeys(PLANES, "mask")
        self.pipeline = albumentations.Compose(steps, additional_targets=planes, p=p, **rows)

    def __call__(self, sample: Sample, rng: np.random.Generator, others: Others | None = None) -> Sample:
        """The sample as the pipeline leaves it."""
        self._check(sample)
        seeds = rng.integers(2**63, size=2)
        self.pipeline.set_random_state(np.random.default_rng(seeds[0]), random.Random(int(seeds[1])))
        if not self.spatial:
            return sample.with_(image=_picture(self.pipeline(image=sample.image)))
        given, rows = _to_albumentations(sample)
        out = self.pipeline(**given)
        return sample.with_(
            image=_picture(out),
            targets=_targets(sample, out, given, rows),
            inputs={
                **sample.inputs,
                **({"hole": _hole(out["input_hole"])} if "hole" in sample.inputs else {}),
            },
            to_file=np.full((2, 3), np.nan),
        )

    def _check(self, sample: Sample) -> None:
        """DataError where albumentations would lose or break something."""
        keys = sample.targets.keys() | sample.inputs.keys()
        if sample.image.dtype == np.uint16:
            raise DataError(
                f"{sample.id}: albumentations knows uint8 and float32 pictures, this one is uint16"
            )
        if self.blending and "semantic" in keys:
            raise DataError(
                f"{sample.id}: {self.blending} would blend classes into others; leave out their mask_interpolation"
            )
        if "clean" in keys:
            raise DataError(f"{sample.id}: {self.names} may damage or recolour, so `clean` would not fit")
        still = {"normals", "intrinsics", "proposals"}
        refused = dict.fromkeys(sorted(keys & still), self.spatial)
        refused["depth"] = sorted(set(self.spatial) - DEPTH_KEEPERS) if "depth" in keys else []
        refused["keypoints"] = sorted(set(self.spatial) & MIRRORS) if "keypoints" in keys else []
        for key, names in refused.items():
            if names:
                raise DataError(
                    f"{sample.id}: albumentations' {names} would not keep the truth of {key!r}; "
                    "use retinue's own transforms for it"
                )


def load_albumentations(path: str | Path) -> Albumentations:
    """A pipeline saved by `albumentations.save`, JSON or YAML by its suffix.

    Raises DataError if the file is missing or no such pipeline.
    """
    import albumentations

    path = Path(path)
    kind = "yaml" if path.suffix.lower() in {".yaml", ".yml"} else "json"
    try:
        return Albumentations(albumentations.load(path, kind))
    except Exception as error:  # whatever a strange file provokes in there
        raise DataError(
            f"{path}: no albumentations pipeline ({type(error).__name__}: {error}); write it with "
            "albumentations.save(transform, path)"
        ) from error


def _leaves(transforms: list[Any]) -> Iterator[Any]:
    for transform in transforms:
        if hasattr(transform, "transforms"):
            yield from _leaves(list(transform.transforms))
        else:
            yield transform


def _to_albumentations(sample: Sample) -> tuple[dict[str, Any], np.ndarray]:
    """The arguments of the pipeline, and which rows have a box that it can take."""
    targets, size = sample.targets, sample.image.shape[:2]
    boxes, rows = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    if "boxes" in targets:
        boxes, keep, _ = clip_boxes(targets["boxes"], size)  # it raises on a box 1e-7 outside
        rows = np.flatnonzero(keep)
        boxes = boxes[rows]
    points = targets.get("keypoints", np.zeros((0, 0, 3), np.float32))
    given: dict[str, Any] = {"image": sample.image, "bboxes": boxes, "rows": rows}
    given["keypoints"] = (
        points[..., :2].reshape(-1, 2) - 0.5
    )  # its points count from the first pixel's centre
    if len(targets.get("masks", ())):
        given["masks"] = list(targets["masks"].astype(np.uint8))
    if "semantic" in targets:
        labels = targets["semantic"]
        given["semantic"] = labels.astype(np.uint8 if labels.max(initial=0) <= 255 else np.float32)
        given["known"] = np.ones(size, np.uint8)
    if "depth" in targets:
        given["depth"] = targets["depth"]
    for key, holder in (("hole", targets), ("input_hole", sample.inputs)):
        if "hole" in holder:
            given[key] = holder["hole"][0].astype(np.uint8)
    return given, rows


def _picture(out: dict[str, Any]) -> np.ndarray:
    """(h, w, c): albumentations may have dropped a single channel's axis."""
    return np.ascontiguousarray(out["image"]).reshape(*out["image"].shape[:2], -1)


def _hole(plane: Any) -> np.ndarray:
    return np.asarray(plane)[None] == 1


def _targets(
    sample: Sample, out: dict[str, Any], given: dict[str, Any], offered: np.ndarray
) -> dict[str, np.ndarray]:
    """The sample's targets as the pipeline moved them."""
    targets, size = dict(sample.targets), out["image"].shape[:2]
    boxes, keep, _ = clip_boxes(np.asarray(out["bboxes"], np.float64).reshape(-1, 4), size)
    boxes, rows = boxes[keep], np.asarray(out["rows"], np.int64)[keep]
    if "keypoints" in targets:
        targets["keypoints"] = _keypoints(targets["keypoints"], np.asarray(out["keypoints"]), size)
    if "masks" in targets:
        moved = [mask == 1 for mask in out["masks"]] if len(targets["masks"]) else []
        targets["masks"] = np.stack(moved) if moved else np.zeros((0, *size), bool)
    if "boxes" in targets:
        if "area" in targets:
            before = given["bboxes"][np.searchsorted(offered, rows)]
            targets["area"] = targets["area"].copy()
            targets["area"][rows] *= _areas(boxes) / np.maximum(_areas(before), 1e-12)
        targets |= {key: targets[key][rows] for key in ROW_KEYS if key in targets}
        targets["boxes"] = boxes
        if "masks" in targets:
            outlined = sample.targets["masks"][rows].any((1, 2))
            tighten(targets, outlined & _loose(boxes, targets["masks"]))
    if "semantic" in targets:
        labels = np.where(np.asarray(out["known"]) == 1, out["semantic"], IGNORE)
        targets["semantic"] = labels.astype(targets["semantic"].dtype)
    if "depth" in targets:
        targets["depth"] = np.asarray(out["depth"], np.float32).reshape(size)
    if "hole" in targets:
        targets["hole"] = _hole(out["hole"])
    return targets


def _loose(boxes: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Which boxes (n,) bool are no longer their mask's, by more than a pixel: those that were cut or turned."""
    own = [mask_box(mask) for mask in masks]
    return np.array([o is None or np.abs(box - o).max() > 1 for box, o in zip(boxes, own)], bool)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _keypoints(keypoints: np.ndarray, moved: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Keypoints (n, k, 3) at their new places; 0 where they are out of the frame or were not known."""
    points = keypoints.astype(np.float32, copy=True)
    if points.size:
        points[..., :2] = moved[:, :2].reshape(*points.shape[:2], 2) + 0.5
    x, y, v = points[..., 0], points[..., 1], points[..., 2]
    points[(x < 0) | (y < 0) | (x > size[1]) | (y > size[0]) | (v == 0)] = 0
    return points
