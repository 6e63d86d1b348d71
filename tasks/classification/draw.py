"""Classes drawn on pictures: the most probable ones as bars, and sheets of a batch with class names."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from retinue.datasets.targets import ClassMap, Pictures, Target

Colour = tuple[int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX
WHITE, PAPER, INK = (255, 255, 255), (250, 250, 250), (40, 40, 40)
BEST, OTHER, PANEL = (46, 125, 190), (105, 120, 135), (22, 26, 30)
RIGHT, WRONG = (30, 130, 60), (200, 40, 40)


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
    return sheet(_images(pictures), captions, [INK] * len(pictures), columns, tile)


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
    return sheet(_images(pictures), captions, colours, columns, tile)


def sheet(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    colours: Sequence[Colour],
    columns: int = 4,
    tile: int = 192,
) -> np.ndarray:
    """Pictures (h, w, 3) uint8 in a grid of `tile` pixels, each over its caption; without one, an empty tile."""
    row, gap = max(14, tile // 10), max(4, tile // 32)
    columns = max(1, min(columns, len(images)))
    lines = max(1, -(-len(images) // columns))
    canvas = np.full((gap + lines * (tile + row + gap), gap + columns * (tile + gap), 3), PAPER, np.uint8)
    for i, (image, caption, colour) in enumerate(zip(images, captions, colours, strict=True)):
        y = gap + i // columns * (tile + row + gap)
        x = gap + i % columns * (tile + gap)
        _place(canvas[y : y + tile, x : x + tile], image)
        cv2.rectangle(canvas, (x, y + tile), (x + tile - 1, y + tile + row - 1), colour, -1)
        write(canvas, shorten(caption, tile - 8, row), x + 4, y + tile, row, WHITE)
    return canvas


def _place(area: np.ndarray, image: np.ndarray) -> None:
    """Show the whole image in the middle of a square area, its sides in proportion, pixels kept as pixels."""
    tile = area.shape[0]
    scale = tile / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST if scale > 3 else cv2.INTER_LINEAR
    y, x = (tile - height) // 2, (tile - width) // 2
    area[y : y + height, x : x + width] = cv2.resize(image, (width, height), interpolation=kind)


def _images(pictures: Pictures) -> list[np.ndarray]:
    """Every picture without its padding, (h, w, 3) uint8; of other numbers of channels the first one or three."""
    images = []
    for pixels, (height, width) in zip(pictures.pixels, pictures.sizes):
        pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)
        image = (pixels[:, :height, :width].float().clamp(0, 1) * 255).round().byte()
        images.append(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()))
    return images


def _describe(target: Target, classes: ClassMap) -> str:
    name = classes.names[int(target["label"])]
    if "mix_label" not in target:
        return name
    weight = float(target["mix_weight"])
    return f"{1 - weight:.2f} {name} + {weight:.2f} {classes.names[int(target['mix_label'])]}"


def write(image: np.ndarray, text: str, x: int, y: int, row: int, colour: Colour) -> None:
    """Write text in place, in a row of `row` pixels whose top left corner is (x, y)."""
    scale, thickness = _font(row)
    height = cv2.getTextSize("X", FONT, scale, thickness)[0][1]
    cv2.putText(image, text, (x, y + (row + height) // 2 - 1), FONT, scale, colour, thickness, cv2.LINE_AA)


def text_width(text: str, row: int) -> int:
    """Width in pixels of text in a row of `row` pixels."""
    return cv2.getTextSize(text, FONT, *_font(row))[0][0]


def shorten(text: str, width: int, row: int) -> str:
    """The text, or as much of its beginning as fits into `width` pixels with two dots."""
    if text_width(text, row) <= width:
        return text
    while text and text_width(text + "..", row) > width:
        text = text[:-1]
    return text + ".."


def _font(row: int) -> tuple[float, int]:
    thickness = max(1, round(row / 20))
    return cv2.getFontScaleFromHeight(FONT, max(6, round(0.55 * row)), thickness), thickness
