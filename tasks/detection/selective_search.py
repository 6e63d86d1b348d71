"""Selective Search: object proposals by grouping the regions of a segmentation, without learning.

Uijlings, van de Sande, Gevers, Smeulders, "Selective Search for Object Recognition", IJCV 2013. R-CNN and Fast R-CNN
were published with its boxes. A picture is cut into small regions of one colour (Felzenszwalb and Huttenlocher 2004);
the two most similar neighbours are joined, again and again until one region is left, and the box of every region on the
way is a proposal. Diversity makes up for errors: this is done in several colour spaces, from several segmentations, by
several ideas of similarity.
"""

import heapq
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import cv2
import numpy as np

from retinue.datasets.targets import DataError

VERSION = 1
"""Rises whenever other boxes come out: stored ones are of no use then."""

Mode = Literal["fast", "quality"]


class Diversity(NamedTuple):
    """What a mode combines, each with each (table 5 of the paper).

    colours: names of `in_colour`. similarities: sums of colour C, texture T, size S and fill F. scales: the k of the
    segmentation, which is also its smallest region in pixels.
    """

    colours: tuple[str, ...]
    similarities: tuple[str, ...]
    scales: tuple[int, ...]


MODES: dict[str, Diversity] = {
    "fast": Diversity(("HSV", "Lab"), ("CTSF", "TSF"), (50, 100)),
    "quality": Diversity(("HSV", "Lab", "rgI", "H", "I"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300)),
}
SIGMA = 0.8
"""Of the smoothing before the segmentation, pixels (section 3.1, as Felzenszwalb's)."""
SIDE = 500
"""Pictures of more than SIDE * SIDE pixels are searched at that area: time hangs on it, and what k means.
(R-CNN brought all to a width of 500.)"""

COLOUR_BINS = 25
TEXTURE_BINS = 10
"""Bins of a channel's histogram, and of a direction's (section 3.2)."""


def selective_search(image: np.ndarray, mode: Mode = "fast", seed: int = 0, side: int = SIDE) -> np.ndarray:
    """The proposals of a picture, likely objects first: (r, 4) float32, x1 y1 x2 y2 in its pixels, each once.

    image: (h, w, 3) uint8, RGB. The order is drawn by `seed` with large regions in front (section 4), so that the first
    ones of any number are a fair choice. fast gives some 4,000, quality several times as many. Raises DataError for an
    image of another kind.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"selective search reads (h, w, 3) uint8 RGB, this is {image.shape} {image.dtype}")
    small = shrink(image, side)
    rng = np.random.default_rng(seed)
    boxes, ranks = [], []
    for hierarchy in hierarchies(small, MODES[mode]):
        boxes.append(hierarchy[::-1])
        ranks.append(np.arange(1, len(hierarchy) + 1) * rng.random(len(hierarchy)))
    ordered = np.concatenate(boxes)[np.argsort(np.concatenate(ranks), kind="stable")]
    _, first = np.unique(ordered, axis=0, return_index=True)
    scale = np.divide(image.shape[1::-1], small.shape[1::-1])
    return (ordered[np.sort(first)] * np.tile(scale, 2)).astype(np.float32)


def shrink(image: np.ndarray, side: int) -> np.ndarray:
    """The picture (h, w, 3), at an area of about side * side where it has more."""
    scale = side / math.sqrt(image.shape[0] * image.shape[1])
    if scale >= 1:
        return image
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def hierarchies(image: np.ndarray, diversity: Diversity) -> Iterator[np.ndarray]:
    """The boxes (2n - 1, 4) int of every hierarchy, those of its n first regions in front, the whole picture last."""
    for colour in diversity.colours:
        pixels = in_colour(image, colour)
        bins = texture(pixels)
        for k in diversity.scales:
            regions = describe(segment(pixels, k), pixels, bins)
            for similarity in diversity.similarities:
                yield group(regions, similarity)


def in_colour(image: np.ndarray, name: str) -> np.ndarray:
    """An RGB picture (h, w, 3) uint8 in another colour space, (h, w, channels) uint8, all channels over the full range.

    HSV, Lab; rgI: red and green over the sum of the three, and intensity; H: hue; I: intensity (section 3.2).
    """
    if name == "Lab":
        return cv2.cvtColor(image, cv2.COLOR_RGB2Lab)
    if name in ("HSV", "H"):
        return cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)[..., : len(name)]
    intensity = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if name == "I":
        return intensity[..., None]
    total = np.maximum(image.sum(2, dtype=np.float32), 1)[..., None]
    return np.dstack([(image[..., :2] * (255 / total)).round().astype(np.uint8), intensity])


def segment(pixels: np.ndarray, k: int) -> np.ndarray:
    """The labels (h, w), from 0, of small regions of one colour: Felzenszwalb's segmentation at scale k."""
    from skimage.segmentation import felzenszwalb  # slow

    return felzenszwalb(pixels, scale=k, sigma=SIGMA, min_size=k)


# What is known of regions


class Regions(NamedTuple):
    """n regions of a picture. sizes: (n,) float32, pixels; boxes: (n, 4) int32; colour, texture: (n, bins) float32,
    histograms whose sum is 1; neighbours: (m, 2) pairs of regions that touch; area: the picture's, pixels."""

    sizes: np.ndarray
    boxes: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    neighbours: np.ndarray
    area: int


def describe(labels: np.ndarray, pixels: np.ndarray, directions: np.ndarray) -> Regions:
    """The regions of a segmentation (h, w) with labels 0 to n - 1.

    pixels: (h, w, channels) uint8. directions: as `texture` gives them.
    """
    height, width = labels.shape
    count = int(labels.max()) + 1
    colours = (pixels.astype(np.uint16) * COLOUR_BINS // 256).transpose(2, 0, 1)
    return Regions(
        sizes=np.bincount(labels.ravel(), minlength=count).astype(np.float32),
        boxes=bounding_boxes(labels, count),
        colour=histograms(labels, colours, COLOUR_BINS, count),
        texture=histograms(labels, directions, TEXTURE_BINS, count),
        neighbours=touching(labels, count),
        area=height * width,
    )


def texture(pixels: np.ndarray) -> np.ndarray:
    """Bins (channels * 8, h, w) uint8 of the Gaussian derivatives in eight directions, sigma 1, of every channel.

    A derivative is positive in one direction and 0 in the opposite one; the picture's steepest is in the last bin.
    """
    found = []
    for channel in cv2.split(cv2.GaussianBlur(pixels, (0, 0), 1.0).astype(np.float32)):
        dx = cv2.Sobel(channel, cv2.CV_32F, 1, 0, ksize=1)
        dy = cv2.Sobel(channel, cv2.CV_32F, 0, 1, ksize=1)
        for derivative in (dx, dy, (dx + dy) / np.sqrt(2), (dx - dy) / np.sqrt(2)):
            for half in (derivative, -derivative):
                scale = TEXTURE_BINS / max(float(half.max()), 1e-6)
                found.append((half * scale).clip(0, TEXTURE_BINS - 1).astype(np.uint8))
    return np.stack(found)


def histograms(labels: np.ndarray, planes: np.ndarray, bins: int, count: int) -> np.ndarray:
    """(count, planes * bins) float32: of each region how often it has each bin, a sum of 1 over all planes."""
    start = labels.ravel() * bins
    rows = [np.bincount(start + plane.ravel(), minlength=count * bins) for plane in planes]
    table = np.stack(rows).reshape(len(planes), count, bins).transpose(1, 0, 2).reshape(count, -1)
    return (table / table.sum(1, keepdims=True)).astype(np.float32)


def bounding_boxes(labels: np.ndarray, count: int) -> np.ndarray:
    """(count, 4) int32, x1 y1 x2 y2; the last ones exclusive."""
    width = labels.shape[1]
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(count))
    y, x = np.divmod(order, width)
    corners = [np.minimum.reduceat(x, starts), np.minimum.reduceat(y, starts)]
    corners += [np.maximum.reduceat(x, starts) + 1, np.maximum.reduceat(y, starts) + 1]
    return np.stack(corners, 1).astype(np.int32)


def touching(labels: np.ndarray, count: int) -> np.ndarray:
    """The pairs (m, 2) of regions, the smaller label first, with pixels side by side or above each other."""
    labels = labels.astype(np.int64)
    pairs = [(labels[:, 1:], labels[:, :-1]), (labels[1:], labels[:-1])]
    codes = [(np.minimum(a, b) * count + np.maximum(a, b))[a != b] for a, b in pairs]
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), count), 1)


# Grouping (algorithm 1)


def group(regions: Regions, similarity: str) -> np.ndarray:
    """Join the two most similar neighbours until one region is left: the boxes (2n - 1, 4) int of all, as they came."""
    growing = Growing(regions, similarity)
    a, b = regions.neighbours.T
    queue = list(zip((-growing.similarity(a, b)).tolist(), a.tolist(), b.tolist()))
    heapq.heapify(queue)
    touched: list[set[int]] = [set() for _ in regions.sizes]
    for i, j in regions.neighbours.tolist():
        touched[i].add(j)
        touched[j].add(i)
    gone = bytearray(2 * len(touched))
    while queue:
        _, i, j = heapq.heappop(queue)
        if gone[i] or gone[j]:
            continue
        gone[i] = gone[j] = True
        new = growing.join(i, j)
        near = (touched[i] | touched[j]) - {i, j}
        touched.append(near)
        if not near:
            break
        for other in near:
            touched[other] -= {i, j}
            touched[other].add(new)
        others = sorted(near)
        for value, other in zip((-growing.similarity(new, np.array(others))).tolist(), others):
            heapq.heappush(queue, (value, other, new))
    return growing.boxes


class Growing:
    """The regions of one hierarchy, as they are joined: rows for the 2n - 1 that there will be, filled in order.

    similarity: the sum of these, each in [0, 1] (section 3.2): C and T, what the histograms have in common; S, small
    regions before large ones; F, regions that fill the box around both.
    """

    def __init__(self, regions: Regions, similarity: str) -> None:
        self.count, self.area = len(regions.sizes), float(regions.area)
        self.by_size, self.by_fill = "S" in similarity, "F" in similarity
        colour = regions.colour if "C" in similarity else regions.colour[:, :0]
        texture = regions.texture if "T" in similarity else regions.texture[:, :0]
        room = self.count - 1
        self.histograms = np.pad(np.hstack([colour, texture]), ((0, room), (0, 0)))
        self.sizes = np.pad(regions.sizes, (0, room))
        self.boxes = np.pad(regions.boxes, ((0, room), (0, 0)))

    def join(self, i: int, j: int) -> int:
        """A new region of two, equation 4 and what follows it; its row."""
        new, sizes = self.count, self.sizes
        sizes[new] = sizes[i] + sizes[j]
        self.boxes[new] = around(self.boxes[i], self.boxes[j])
        self.histograms[new] = (sizes[i] * self.histograms[i] + sizes[j] * self.histograms[j]) / sizes[new]
        self.count += 1
        return new

    def similarity(self, a: np.ndarray | int, b: np.ndarray) -> np.ndarray:
        """(m,) float32 of regions a, one or m of them, and b."""
        total = np.minimum(self.histograms[a], self.histograms[b]).sum(1)
        size = self.sizes[a] + self.sizes[b]
        if self.by_size:
            total += 1 - size / self.area
        if self.by_fill:
            x1, y1, x2, y2 = around(self.boxes[a], self.boxes[b]).T
            total += 1 - ((x2 - x1) * (y2 - y1) - size) / self.area
        return total


def around(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The boxes (..., 4) around two."""
    return np.concatenate([np.minimum(a[..., :2], b[..., :2]), np.maximum(a[..., 2:], b[..., 2:])], -1)
