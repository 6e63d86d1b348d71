"""Masks of a few blobs, as people draw them, and the files around them: what the tests of masks of classes share."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from retinue.datasets.mask_pairs import MaskPairs, splits


def blobs(values: list[int], size: tuple[int, int] = (60, 80), seed: int = 0) -> np.ndarray:
    """A mask (height, width) of large overlapping rectangles and discs; each of the values occurs."""
    rng = np.random.default_rng(seed)
    mask = np.full(size, values[0], np.uint16)
    for value in [*values[1:], *rng.choice(values, 4), *values[1:]]:
        y, x = (int(rng.integers(0, side)) for side in size)
        if rng.random() < 0.5:
            cv2.circle(mask, (x, y), int(rng.integers(4, 12)), int(value), -1)
        else:
            mask[y : y + int(rng.integers(5, 25)), x : x + int(rng.integers(5, 25))] = value
    for i, value in enumerate(values):
        mask[-1, i] = value
    return mask if max(values) > 255 else mask.astype(np.uint8)


def picture(path: Path, size: tuple[int, int] = (60, 80), exif: int = 1) -> Path:
    """Noise of (height, width), a function of the path's last two parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list("/".join(path.parts[-2:]).encode()))
    meta = Image.Exif()
    meta[274] = exif
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path, exif=meta, quality=90)
    return path


def save(path: Path, mask: np.ndarray) -> Path:
    """A mask as the suffix says; (h, w), or (h, w, 3) or (h, w, 4) in RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def pair(root: Path, name: str, mask: np.ndarray, folders: tuple[str, str] = ("images", "masks")) -> None:
    """A picture and its mask."""
    picture(root / folders[0] / f"{name}.png", mask.shape[:2])
    save(root / folders[1] / f"{name}.png", mask)


def whole(root: Path, values: str | None = None) -> MaskPairs:
    """All pairs of images/train and masks/train."""
    return splits(str(root), values)["train"]


def pairs(root: Path, masks: dict[str, np.ndarray]) -> None:
    """These masks and pictures of their sizes, by name, in images/train and masks/train."""
    for name, mask in masks.items():
        pair(root, f"train/{name}", mask)
