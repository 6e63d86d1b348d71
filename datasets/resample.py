"""Resampling: one affine map applied to pixels, bilinear for pictures and nearest for labels.

Maps are (2, 3) float64 between frames in which the centre of the first pixel is (0.5, 0.5); OpenCV's has it
at (0, 0).
"""

from typing import Literal

import cv2
import numpy as np
from PIL import Image


def white(dtype: np.dtype) -> float:
    """The value of full light: 255 for uint8, 65535 for uint16, 1 for floats."""
    return float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0


def compose(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The (2, 3) affine map `before` and then `after`, as one."""
    both = after[:, :2] @ before
    both[:, 2] += after[:, 2]
    return both


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a (2, 3) affine map, (2, 3)."""
    (a, b, x), (c, d, y) = matrix.tolist()  # plain numbers: ten times as fast as linalg.inv at this size
    det = a * d - b * c
    a, b, c, d = d / det, -b / det, -c / det, a / det
    return np.array([[a, b, -a * x - b * y], [c, d, -c * x - d * y]])


def move_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (..., 2) by a (2, 3) affine map, in float64."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def is_upright(matrix: np.ndarray) -> bool:
    """True where rows stay rows and columns stay columns: no turn and no shear."""
    return abs(matrix[0, 1]) < 1e-9 and abs(matrix[1, 0]) < 1e-9


def _centres(matrix: np.ndarray) -> np.ndarray:
    """From our frame to OpenCV's, in which pixel centres have whole coordinates."""
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2].sum(1) * 0.5 - 0.5
    return moved


def warp_nearest(planes: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: float) -> np.ndarray:
    """Planes (n, h, w) to (n, *size): each pixel is the one that its centre falls into.

    Any type but int32 and int64. `fill` is the value beyond the picture.
    """
    out = np.full((len(planes), *size), fill, planes.dtype)
    if not len(planes) or 0 in planes.shape:
        return out
    back = inverse(matrix)
    if not is_upright(matrix):
        flags, back = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, _centres(back)
        for plane, moved in zip(planes.view(np.uint8) if planes.dtype == bool else planes, out):
            moved[:] = cv2.warpAffine(plane, back, size[::-1], flags=flags, borderValue=float(fill))
        return out
    (rows, y), (columns, x) = (
        _sources(n, back[i, i], back[i, 2], extent) for n, i, extent in zip(size, (1, 0), planes.shape[1:])
    )
    if len(x) and len(y):
        out[:, rows, columns] = planes[:, y][:, :, x]
    return out


def _sources(n: int, scale: float, shift: float, extent: int) -> tuple[slice, np.ndarray]:
    """Which of n pixels of a line lie in the picture (they are consecutive), and the source pixel of each."""
    source = np.floor((np.arange(n) + 0.5) * scale + shift + 1e-9).astype(np.int64)
    inside = np.flatnonzero((source >= 0) & (source < extent))
    if not len(inside):
        return slice(0, 0), source[:0]
    return slice(int(inside[0]), int(inside[-1]) + 1), source[inside]


def warp_image(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], pad: float = 0.0, antialias: bool = True
) -> np.ndarray:
    """A picture (h, w, c) uint8, uint16 or float32 to (*size, c) of the same type, bilinear.

    Crops, flips and paddings by whole pixels are exact. Where the picture shrinks and `antialias` holds, it
    is averaged down first. `pad`, in [0, 1], is the value beyond the picture.
    """
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise TypeError(f"a picture is uint8, uint16 or float32, not {image.dtype}")
    fill = pad * white(image.dtype)
    fill = fill if image.dtype == np.float32 else round(fill)
    if is_upright(matrix) and (parts := _whole_pixels(matrix, image.shape[:2], size)):
        return _resize_into(image, *parts, matrix, size, fill, antialias)
    (left, top), (right, bottom) = _extent(matrix, image.shape[:2], size)
    if (right - left) * (bottom - top) < 0.9 * size[0] * size[1]:  # the rest is empty: no need to warp it
        out = np.full((*size, image.shape[2]), fill, image.dtype)
        if right > left and bottom > top:
            inner = matrix - np.array([[0, 0, left], [0, 0, top]])
            out[top:bottom, left:right] = _warp(image, inner, (bottom - top, right - left), fill, antialias)
        return out
    return _warp(image, matrix, size, fill, antialias)


def _extent(matrix: np.ndarray, picture: tuple[int, int], size: tuple[int, int]) -> list[list[int]]:
    """The pixels of the new frame that the picture may touch: [[left, top], [right, bottom]]."""
    moved = move_points(_corners(picture), matrix)
    ends = np.stack([np.floor(moved.min(0)) - 1, np.ceil(moved.max(0)) + 1])
    return np.clip(ends, 0, size[::-1]).astype(int).tolist()


def _corners(size: tuple[int, int]) -> np.ndarray:
    return np.array([[0, 0], [size[1], 0], [0, size[0]], [size[1], size[0]]], float)


def _warp(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: float, antialias: bool
) -> np.ndarray:
    back = inverse(matrix)
    if antialias:
        image, back = _shrink(image, back, size)
    flags, back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, _centres(back)
    pieces = [image[..., i : i + 4] for i in range(0, image.shape[2], 4)]  # cv2 warps four channels at most
    moved = [cv2.warpAffine(p, back, size[::-1], flags=flags, borderValue=(fill,) * 4) for p in pieces]
    moved = [m.reshape(*size, -1) for m in moved]
    return moved[0] if len(moved) == 1 else np.concatenate(moved, 2)


Rectangle = tuple[int, int, int, int]


def _whole_pixels(
    matrix: np.ndarray, picture: tuple[int, int], size: tuple[int, int]
) -> tuple[Rectangle, Rectangle] | None:
    """The part of the picture that shows and where it shows, x1 y1 x2 y2, if both have whole coordinates."""
    ends = np.array([[0.0, 0.0], [picture[1], picture[0]]])
    target = np.sort(move_points(ends, matrix), 0)
    target = np.clip(target, 0, size[::-1])
    source = np.sort(move_points(target, inverse(matrix)), 0)
    both = np.concatenate([source, target])
    if np.abs(both - both.round()).max() > 1e-6 or (both[[1, 3]] - both[[0, 2]] < 0.5).any():
        return None
    a, b, c, d, e, f, g, h = (int(v) for v in both.round().ravel())
    return (a, b, c, d), (e, f, g, h)


def _resize_into(
    image: np.ndarray,
    source: Rectangle,
    target: Rectangle,
    matrix: np.ndarray,
    size: tuple[int, int],
    fill: float,
    antialias: bool,
) -> np.ndarray:
    """Cut `source` out, mirror it as the matrix says, resize it to `target` and pad to `size`."""
    part = image[source[1] : source[3], source[0] : source[2]]
    width, height = target[2] - target[0], target[3] - target[1]
    if part.shape[:2] != (height, width):
        if antialias:
            part = average_down(part, (part.shape[1] / width, part.shape[0] / height))
        part = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    if matrix[0, 0] < 0 or matrix[1, 1] < 0:  # far faster than copying from a reversed view
        part = cv2.flip(part, -1 if max(matrix[0, 0], matrix[1, 1]) < 0 else int(matrix[0, 0] < 0))
    part = part.reshape(height, width, -1)
    if (height, width) == size:
        return np.ascontiguousarray(part)
    out = np.full((*size, image.shape[2]), fill, image.dtype)
    out[target[1] : target[3], target[0] : target[2]] = part
    return out


def _shrink(image: np.ndarray, back: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """What of the picture shows, averaged for bilinear sampling, and the map from the new frame to that."""
    factors = np.linalg.norm(back[:, :2], axis=1)
    if factors.max() <= 1 + 1e-6:
        return image, back
    seen = move_points(_corners(size), back)
    extent = image.shape[1::-1]
    low = np.clip(np.floor(seen.min(0) - 2 * factors), 0, extent).astype(int)
    high = np.clip(np.ceil(seen.max(0) + 2 * factors), 0, extent).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    if 0 in part.shape:
        return image, back
    small = average_down(np.ascontiguousarray(part), (factors[0], factors[1]))
    ratio = np.array([small.shape[1] / part.shape[1], small.shape[0] / part.shape[0]])
    return small, np.column_stack([back[:, :2] * ratio[:, None], (back[:, 2] - low) * ratio])


def average_down(image: np.ndarray, factors: tuple[float, float]) -> np.ndarray:
    """A picture (h, w, c) made ready for bilinear shrinking by `factors` (x, y): smaller, and smoothed.

    The variance of the smoothing is what a triangle as wide as 2 f pixels has (f^2 / 6: PIL's antialiased
    bilinear, with which evaluation resizes) less what follows (bilinear sampling, 1 / 6) and what went
    before (boxes, 1 / 12), so that training sees pictures as sharp as evaluation does.
    """
    steps = [max(1, int(f / 1.5)) for f in factors]
    sides = [max(1, round(side / step)) for side, step in zip(image.shape[1::-1], steps)]
    left = [f * side / old for f, side, old in zip(factors, sides, image.shape[1::-1])]
    if max(steps) > 1:
        image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    x, y = (_smoothing((f * f - 1) / 6 - (step > 1) / 12) for f, step in zip(left, steps))
    if len(x) > 1 or len(y) > 1:
        image = cv2.sepFilter2D(image, -1, x, y, borderType=cv2.BORDER_REPLICATE)
    return image.reshape(*sides[::-1], -1)


def _smoothing(variance: float) -> np.ndarray:
    """A smoothing kernel of this variance, in pixels squared; of one tap where it would hardly matter."""
    if variance < 0.01:
        return np.ones(1)
    if variance < 0.5:
        return np.array([variance / 2, 1 - variance, variance / 2])
    sigma = float(np.sqrt(variance))
    return cv2.getGaussianKernel(2 * int(np.ceil(2.5 * sigma)) + 1, sigma).ravel()


def crop_image(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], pad: float = 0.0) -> np.ndarray:
    """A picture shifted by whole pixels into a new frame: a copy of what shows, `pad` elsewhere."""
    return warp_image(image, matrix, size, pad, antialias=False)


def resize_like_pil(
    image: np.ndarray,
    size: tuple[int, int],
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    antialias: bool = True,
) -> np.ndarray:
    """A picture (h, w, c) to (*size, c) with PIL's resizing, which averages where it shrinks; or plain sampling.

    uint8 is bit for bit what PIL makes of an RGB or grey picture. uint16 and float32 are resized in float32.
    """
    height, width = size
    if not antialias:
        kernel = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[interpolation]
        return cv2.resize(image, (width, height), interpolation=kernel).reshape(height, width, -1)
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.array(Image.fromarray(image).resize((width, height), method))
    planes = np.moveaxis(image if image.dtype == np.uint8 else image.astype(np.float32), 2, 0)
    resized = [
        Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), method) for plane in planes
    ]
    out = np.stack([np.asarray(plane) for plane in resized], 2)
    if np.issubdtype(image.dtype, np.integer):
        out = out.round().clip(0, white(image.dtype))  # bicubic overshoots
    return out.astype(image.dtype)
