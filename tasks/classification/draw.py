"""Classes drawn on pictures: the most probable ones as bars, and sheets of a batch with class names."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from retinue.datasets.targets import ClassMap, Pictures, Target
from retinue.tasks.drawing import INK, RIGHT, WHITE, WRONG, images_of, sheet, shorten, text_width, write

BEST, OTHER, PANEL = (46, 125, 190), (105, 120, 135), (22, 26, 30)


def draw_bars(picture: np.ndarray, top: Sequence[tuple[str, float]]) -> np.ndarray:
    """A copy of the picture (h, w, 3) uint8 RGB with (name, probability) rows as bars on a panel, top left.

    A row is a twenty-fourth of the shorter side high, but at least 11 to 15 pixels; there are as many as three
    fifths of the picture hold; names that are too long for it are cut.
    """
    picture = np.ascontiguousarray(picture).copy()
    height, width = picture.shape[:2]
    side = min(height, width)
    row = max(11, min(15, side // 14), round(side / 24))
    margin = max(1, row // 4)
    top = top[: max(1, int(0.6 * height - 2 * margin) // row)]
    values = [f"{100 * probability:.0f}%" for _, probability in top]
    value_width = max(text_width(value, row) for value in values)
    wanted = max(text_width(name, row) for name, _ in top) + value_width + 6 * margin
    across = min(width, max(wanted, min(width // 3, 12 * row)))
    names_width = across - value_width - 6 * margin
    if show_values := names_width >= 2 * row:
        top = [(shorten(name, names_width, row), probability) for name, probability in top]
    else:
        top = [(shorten(name, across - 3 * margin, row), probability) for name, probability in top]
    panel = picture[: 2 * margin + row * len(top), :across]
    panel[:] = (0.3 * panel + 0.7 * np.array(PANEL)).astype(np.uint8)
    for i, ((name, probability), value) in enumerate(zip(top, values)):
        y = margin + i * row
        end = margin + round((across - 2 * margin) * probability)
        cv2.rectangle(
            picture, (margin, y), (max(margin, end - 1), y + row - 2), BEST if i == 0 else OTHER, -1
        )
        write(picture, name, 2 * margin, y, row, WHITE)
        if show_values:
            write(picture, value, across - 2 * margin - text_width(value, row), y, row, WHITE)
    return picture


def draw_batch(
    pictures: Pictures, targets: Sequence[Target], classes: ClassMap, columns: int = 4, tile: int = 192
) -> np.ndarray:
    """A sheet (h, w, 3) uint8 RGB of a batch as the network sees it, with class names under the pictures."""
    captions = [_describe(target, classes) for target in targets]
    return sheet(images_of(pictures), captions, [INK] * len(pictures), columns, tile)


def draw_predictions(
    pictures: Pictures, results: Sequence[Any], targets: Sequence[Target], columns: int = 4, tile: int = 192
) -> np.ndarray:
    """A sheet (h, w, 3) uint8 RGB of a batch with the classes predicted.

    Green is right; red is wrong, with the truth. results: one `Classification` a picture.
    """
    captions, colours = [], []
    for result, target in zip(results, targets, strict=True):
        label = int(target["label"])
        right = result.index == label
        said = f"{result.label} {100 * result.score:.0f}%"
        captions.append(said if right else f"{said}, is {result.classes.names[label]}")
        colours.append(RIGHT if right else WRONG)
    return sheet(images_of(pictures), captions, colours, columns, tile)


def _describe(target: Target, classes: ClassMap) -> str:
    name = classes.names[int(target["label"])]
    if "mix_label" not in target:
        return name
    weight = float(target["mix_weight"])
    return f"{1 - weight:.2f} {name} + {weight:.2f} {classes.names[int(target['mix_label'])]}"
