"""Boxes, names, masks and keypoints painted on a picture, in place. Coordinates are the picture's own pixels."""

from collections.abc import Iterator, Sequence
from functools import cache

import cv2
import numpy as np

from retinue.tasks.drawing import Colour, shorten, text_width, write

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
LEFT, RIGHT, MIDDLE = (70, 225, 255), (255, 110, 210), (245, 245, 245)
"""Colours of keypoints on the body's left side, on its right side, and of all others."""

FIRST = (68, 40, 60)
"""The first class's colour, an orange, in CIELAB."""

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels; x2 and y2 are the last ones."""


def colour(label: int) -> Colour:
    """The colour of a class: the same in every picture, and far from those of the classes before it."""
    palette = _palette()
    return palette[label % len(palette)]


@cache
def _palette(count: int = 96, steps: int = 11) -> list[Colour]:
    """Strong colours that are neither dark nor pale, each as far as can be from all before it, by CIELAB."""
    values = np.linspace(0, 255, steps).round()
    grid = np.stack(np.meshgrid(values, values, values), -1).reshape(-1, 1, 3).astype(np.uint8)
    lab = cv2.cvtColor(grid.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)[:, 0]
    usable = (lab[:, 0] > 45) & (lab[:, 0] < 92) & (np.hypot(lab[:, 1], lab[:, 2]) > 48)
    grid, lab = grid[usable, 0], lab[usable]
    chosen = [int(np.linalg.norm(lab - FIRST, axis=1).argmin())]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(distance.argmax()))
    return [(int(red), int(green), int(blue)) for red, green, blue in grid[chosen]]


def ink_on(plate: Colour) -> Colour:
    """Black or white, whichever is read better on this colour (luma of ITU-R BT.601)."""
    return BLACK if 0.299 * plate[0] + 0.587 * plate[1] + 0.114 * plate[2] > 140 else WHITE


def line_width(picture: np.ndarray) -> int:
    """Of a box, in pixels: 1 up to 450 pixels of the shorter side, 2 up to 750, 10 in a photo of 12 megapixels."""
    return max(1, round(min(picture.shape[:2]) / 300))


def text_row(picture: np.ndarray) -> int:
    """Height of a line of text, in pixels: 10 in the smallest pictures, a thirtieth of a large one's side."""
    side = min(picture.shape[:2])
    return max(10, min(15, side // 16), round(side / 32))


def paint_mask(picture: np.ndarray, y: int, x: int, mask: np.ndarray, colour: Colour, width: int) -> None:
    """A translucent fill and an outline of a mask (h', w') bool that begins at row y, column x."""
    if not mask.any():
        return
    part = picture[y : y + mask.shape[0], x : x + mask.shape[1]]
    filled = cv2.addWeighted(part, 0.65, np.full_like(part, colour), 0.35, 0)
    cv2.copyTo(filled, mask.astype(np.uint8), part)
    outlines, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y)
    )
    cv2.drawContours(picture, outlines, -1, colour, max(1, width // 2 + 1), cv2.LINE_AA)


def paint_box(picture: np.ndarray, box: Box, colour: Colour, width: int, dashed: bool = False) -> None:
    """The outline of a box, `width` pixels thick, centred on its border."""
    x1, y1, x2, y2 = box
    if not dashed:
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, width)
        return
    dash = 4 * width + 2
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x1, y2), (x2, y2)),
        ((x1, y1), (x1, y2)),
        ((x2, y1), (x2, y2)),
    ):
        length = max(end[0] - start[0], end[1] - start[1])
        direction = np.array([end[0] > start[0], end[1] > start[1]], int)
        for at in range(0, length + 1, 2 * dash):
            first, last = (np.array(start) + direction * min(step, length) for step in (at, at + dash))
            cv2.line(picture, first.tolist(), last.tolist(), colour, width)


def paint_keypoints(
    picture: np.ndarray,
    points: np.ndarray,
    names: Sequence[str],
    skeleton: Sequence[Sequence[int]],
    width: int,
) -> None:
    """Limbs and joints of one object: points (k, 3), x, y, visibility, those of visibility 0 left out.

    skeleton: pairs of indices of points. Names that begin with "left" or "right" have a colour of their own.
    """
    colours = [_side(name) for name in names] if len(names) == len(points) else [MIDDLE] * len(points)
    places = [(int(x), int(y)) for x, y in np.clip(np.floor(points[:, :2]), -(2**15), 2**15)]
    seen = points[:, 2] > 0
    limbs = [(a, b) for a, b in skeleton if max(a, b) < len(points) and seen[a] and seen[b]]
    for a, b in limbs:
        shade = colours[a] if colours[a] == colours[b] else MIDDLE
        cv2.line(picture, places[a], places[b], shade, width, cv2.LINE_AA)
    for place, shade, visible in zip(places, colours, seen):
        if visible:
            if width > 1:
                cv2.circle(picture, place, width + 1 + width // 2, BLACK, -1, cv2.LINE_AA)
            cv2.circle(picture, place, width + width // 2, shade, -1, cv2.LINE_AA)


def _side(name: str) -> Colour:
    return LEFT if name.startswith("left") else RIGHT if name.startswith("right") else MIDDLE


class Labels:
    """Names beside boxes that do not cover each other, nor small boxes where there is another place."""

    def __init__(self, picture: np.ndarray, boxes: Sequence[Box]) -> None:
        self.picture = picture
        self.row = text_row(picture)
        self.taken = np.zeros(picture.shape[:2], bool)
        self.small = np.zeros(picture.shape[:2], np.uint8)
        for x1, y1, x2, y2 in boxes:
            if (x2 - x1) * (y2 - y1) <= (6 * self.row) ** 2:
                self.small[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1] = 1

    def paint(self, text: str, box: Box, plate: Colour) -> bool:
        """Write a name on a plate at this box; False where there is no room for it."""
        height, width = self.picture.shape[:2]
        edge = max(1, self.row // 5)
        text = shorten(text, width - 2 * edge, self.row)
        across = min(width, text_width(text, self.row) + 2 * edge)
        free = [
            (int(self.small[y : y + self.row, x : x + across].sum()), order, x, y)
            for order, (x, y) in enumerate(_places(box, across, self.row, width, height))
            if not self.taken[y : y + self.row, x : x + across].any()
        ]
        if not free:
            return False
        _, _, x, y = min(free)
        self.taken[y : y + self.row, x : x + across] = True
        cv2.rectangle(self.picture, (x, y), (x + across - 1, y + self.row - 1), plate, -1)
        write(self.picture, text, x + edge, y, self.row, ink_on(plate))
        return True


def _places(box: Box, across: int, row: int, width: int, height: int) -> Iterator[tuple[int, int]]:
    """Top left corners for a plate at a box, the best first, all of it inside the picture."""
    x1, y1, x2, y2 = box
    for y in (y1 - row, y1, y2 + 1, y2 - row + 1, (y1 + y2 - row) // 2):
        for x in (x1, x2 - across + 1, (x1 + x2 - across) // 2):
            x = min(max(x, 0), width - across)
            if 0 <= y <= height - row:
                yield x, y
